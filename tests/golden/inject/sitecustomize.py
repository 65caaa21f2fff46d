"""Watch a rank through PyTorch alone, so that it works whatever the product's modules are called.

Python imports this at its start when the folder is on PYTHONPATH. `FASHION_DIST_GOLDEN` says what to do, as JSON:

    folder      rank R adds to rank_R.jsonl: where our packages were imported from, then a line per optimizer step with
                the losses of its backward passes
    kill_at     SIGKILL this process after so many optimizer steps of its own
"""

import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys

WATCH = json.loads(os.environ.get("FASHION_DIST_GOLDEN", "{}"))
RANK = os.environ.get("SUBMITIT_LOCAL_GLOBALID")


def watch(torch):
    losses, steps = [], [0]
    original = torch.autograd.backward

    def backward(tensors, *args, **kwargs):
        losses.append(float((tensors if torch.is_tensor(tensors) else tensors[0]).detach()))
        return original(tensors, *args, **kwargs)

    def stepped(*_):
        if not steps[0]:
            ours = [name for name in ("fashion_dist", "shards") if name in sys.modules]
            note({"code": {name: sys.modules[name].__file__ for name in ours}})
        steps[0] += 1
        note({"losses": losses})
        losses.clear()
        if steps[0] == WATCH.get("kill_at"):
            os.kill(os.getpid(), signal.SIGKILL)

    torch.autograd.backward = backward
    from torch.optim.optimizer import register_optimizer_step_post_hook

    register_optimizer_step_post_hook(stepped)


def note(line):
    with open(os.path.join(WATCH["folder"], f"rank_{RANK}.jsonl"), "a") as file:  # noqa: PTH118, PTH123  at every start
        file.write(json.dumps(line) + "\n")


class AfterTorch(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports torch as usual and calls `watch` right after."""

    def find_spec(self, name, path=None, _target=None):
        if name != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        self.loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.loader.create_module(spec)

    def exec_module(self, module):
        self.loader.exec_module(module)
        watch(module)


if WATCH and RANK is not None:
    sys.meta_path.insert(0, AfterTorch())
