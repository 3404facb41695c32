"""What a test shows beyond numbers, for W&B and TensorBoard: gathered once from the run's folder, then handed out."""
