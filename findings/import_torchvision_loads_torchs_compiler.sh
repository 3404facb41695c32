#!/usr/bin/env bash
# Finding: `import torchvision`, whichever part of it is wanted, imports torch's whole compiler: torch._dynamo and
# torch._inductor.
#
# Guess before: torchvision registers its operators and offers models and transforms; the compiler is imported when
# torch.compile is called for the first time, as `import torch` itself does it.
# Seen (torch 2.14.1, torchvision 0.29.1): about 1,080 modules beyond torch's own, among them torch._dynamo and
# torch._inductor, and 164 to 173 MB more; a second of CPU time, where `import torch` takes two. `torchvision.io`, `.ops` and
# `.transforms` alike. A program that only decodes a JPEG and runs a network pays for a compiler it never uses.
# Way out: torch's own functions (torch.nn.functional.interpolate with antialias=True resizes bytes alike); where the
# decoder is needed, import it late.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 numpy
"$folder/venv/bin/python" - <<'PYTHON'
import json
import subprocess
import sys

SCRIPT = """
import json, resource, sys
import torch
before = len(sys.modules), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
{then}
compilers = [name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules]
more = len(sys.modules) - before[0], (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before[1]) // 1024
print(json.dumps([torch.__version__, compilers, *more]))
"""
found = {}
for then in ("pass", "import torchvision.io", "import torchvision.transforms", "import torchvision.ops"):
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(then=then)], capture_output=True, text=True, check=True)
    found[then] = json.loads(done.stdout)
    print("%-30s torch %s, compiler %s, %d modules more, %d MB more" % (then, *found[then]))
assert found["pass"][1] == [], "torch itself now imports its compiler"
for then, (_, compilers, modules, _) in found.items():
    if then != "pass":
        assert compilers == ["torch._dynamo", "torch._inductor"], f"{then} no longer imports the compiler"
        assert modules > 500, f"{then} imports less than it did"
PYTHON
