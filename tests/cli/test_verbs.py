"""The verbs with a parser of their own: help and mistakes are answered before torch is imported, in one line."""

from support.running import at_once

from mlcl.cli import verbs


def test_help(tmp_path):
    general, *answers = at_once([["--help"], *([verb, "--help"] for verb in verbs.VERBS)], tmp_path)
    for verb, answer in zip(verbs.VERBS, answers, strict=True):
        assert (answer.status, answer.err) == (0, "")
        assert f"usage: mlcl {verb}" in answer.out and max(map(len, answer.out.splitlines())) <= 110
        assert verb in general.out


PREDICT = ["predict", "--ckpt_path", "x.ckpt", "--images", ".", "--output"]
MISTAKES = [
    (["predict"], "predict: the following arguments are required: --ckpt_path, --images, --output; mlcl predict"),
    ([*PREDICT, "o.csv", "--ouput", "x"], "predict: unknown option --ouput (did you mean --output?)"),
    ([*PREDICT, "o.csv", "--top", "0"], "argument --top: expected a whole number of at least 1, got '0'"),
    ([*PREDICT, "o.csv", "--batch_size", "many"], "--batch_size: expected a whole number of at least 1, got 'many'"),
    ([*PREDICT, "o.txt"], "--output o.txt: the name must end in .csv or .jsonl"),
    ([*PREDICT, "folder.csv"], "--output folder.csv is a folder; give a file"),
    ([*PREDICT, "o", "--writer", "voc2012", "--top", "3"], "--top: the files of --writer voc2012 hold every score"),
    ([*PREDICT, "o", "--writer", "voc2007"], "argument --writer: invalid choice: 'voc2007'"),
    (["predict", "--ckpt_path", "y.ckpt", "--images", ".", "--output", "o.csv"], "--ckpt_path y.ckpt: no such file"),
    (["predict", "--ckpt_path", ".", "--images", ".", "--output", "o.csv"], "no run with a checkpoints/best.ckpt in"),
    (["predict", "--ckpt_path", "last", "--images", ".", "--output", "o.csv"], "--ckpt_path last: no run under"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", "nowhere", "--output", "o.csv"], "--images nowhere: no"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", "@nowhere", "--output", "o.csv"], "@nowhere: the list cannot be"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", "@empty.txt", "--output", "o.csv"], "@empty.txt: the list is e"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", "@list.txt", "--output", "o.csv"], "list.txt, line 3: gone.jpg"),
    (["export", "--ckpt_path", "x.ckpt", "--format", "onnx", "--output", "o.onnx", "--images", "@list.txt"], "line 3"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--target", "precision"], "expected f1, precision=0.9 or recall=0.9, got"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--target", "recall=7"], "expected a number between 0 and 1, got '7'"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--shrink", "-1"], "argument --shrink: expected"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--guarantee"], "--guarantee needs --target recall=R; for f1 there is no"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--guarantee", "--target", "precision=0.9"], "for precision there is no"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--guarantee", "pixels"], "argument --guarantee: invalid choice: 'pixels'"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--target", "recall=.9", "--guarantee", "--shrink", "1"], "--shrink: with"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--false_alarms", "5"], "expected a number between 0 and 1, got '5'"),
    ([*PREDICT, "o", "--writer", "voc2012", "--energy"], "--energy: the files of --writer voc2012 hold scores only"),
    (["predict", "--ckpt_path", "x.onnx", "--images", ".", "--output", "o.csv", "--energy"], "give the checkpoint"),
    (["calibrate", "--ckpt_path", "x.ckpt", "--output", "x.ckpt"], "--output x.ckpt is the checkpoint itself"),
    (["export", "--ckpt_path", "x.ckpt", "--format", "onnx", "--output", "x.pt2"], "the name must end in .onnx"),
    (["export", "--ckpt_path", "x.ckpt", "--output", "x.pt2"], "the following arguments are required: --format"),
    (["pack", "--data", "Demo"], "pack: the following arguments are required: --output; mlcl pack --help"),
    (["pack", "--output", "new"], "pack needs --config FILE or --data CLASS"),
    (["pack", "--data", "Demo", "--output", "new", "--side", "0"], "--side: expected a whole number of at least 1"),
    (["pack", "--data", "Demo", "--output", "new", "--quality", "80"], "--quality needs --side"),
    (["pack", "--data", "Demo", "--output", "new", "--side", "9", "--quality", "101"], "--quality 101: at most 100"),
    (["pack", "--data", "Demo", "--output", "new", "--chunk_mb", "2001"], "--chunk_mb 2001: at most 2000"),
    (["pack", "--data", "Demo", "--output", "x.ckpt"], "--output x.ckpt is no folder"),
    (["pack", "--data", "Demo", "--outptu", "new", "--output", "x"], "--outptu (did you mean --output?)"),
    (["report", "nowhere"], "nowhere"),
    (["compare", "nowhere", "here"], "nowhere"),
    (["predict", "--ckpt_path", "x.ckpt", "--images", ".", "--output", "o.csv", "--seed"], "unknown option --seed"),
]  # fmt: skip


def test_mistakes_that_need_no_class_are_one_line(tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"")
    (tmp_path / "x.onnx").touch()
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.txt").write_text(" \n\n")
    (tmp_path / "list.txt").write_text("x.ckpt\n\ngone.jpg\nx.ckpt\n")
    answers = at_once([arguments for arguments, _ in MISTAKES], tmp_path)
    for (arguments, words), answer in zip(MISTAKES, answers, strict=True):
        assert (answer.status, answer.out, answer.err.count("\n")) == (2, "", 1), (arguments, answer)
        assert answer.err.startswith("mlcl: ") and words in answer.err, (arguments, answer)


def test_a_file_that_is_no_checkpoint(mlcl, tmp_path):
    (tmp_path / "x.ckpt").write_bytes(b"nothing")
    for arguments in (["calibrate"], ["export", "--format", "onnx", "--output", "o.onnx"]):
        outcome = mlcl(*arguments, "--ckpt_path", "x.ckpt")
        assert outcome.status == 1 and outcome.err.startswith("mlcl: x.ckpt is no checkpoint, or damaged")
