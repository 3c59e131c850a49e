"""`import accounting` is light, and never needs torch."""

import subprocess
import sys

CODE = """
import sys, time
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "opacus", "flwr", "ray"):
            raise ImportError(name)
sys.meta_path.insert(0, Block())
start = time.process_time()
import accounting
took = time.process_time() - start
assert "dp_accounting" not in sys.modules
accounting.epsilon(accounting.SampledGaussian(sampler="poisson-users", population=100,
    users_per_round=10, noise_multiplier=1.0), rounds=3, delta=1e-3)
assert "torch" not in sys.modules
print(took)
"""


def test_import_is_quick_and_free_of_torch():
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1.0
