"""Several devices, in processes of their own: gradients, collectives in the compiled programs, bytes on each device."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from quick_flags import FLAGS

import streamgrad as sg

PACKAGE = Path(sg.__file__).parent.parent

START = """
import json, re, sys
import jax, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec
import streamgrad as sg

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_disable_most_optimizations", True)

NAMES = "all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter|collective-broadcast"

def collectives(compiled):
    found = re.findall(rf"= (\\S+) ({NAMES})(?:-start)?\\(", compiled.as_text())
    return sorted(f"{name} {shape.split('{')[0]}" for shape, name in found)

def model(key, cell=None, algorithm=None):
    a, b = jax.random.split(key)
    cell = cell or sg.cells.GRU(3, 12, key=a)
    layer = sg.Recurrent(cell, algorithm or sg.RTRL())
    return sg.nn.Sequential([layer, sg.Readout(12, 1, key=b)])

def learner(*given):
    return sg.Learner(model(jax.random.key(0), *given), optax.adam(1e-2), loss=sg.losses.mse)

def weights(learner, st):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(learner.model(st)) if hasattr(leaf, "dtype")])

rng = np.random.default_rng(0)
xs, ts = rng.normal(size=(24, 3)), rng.normal(size=(24, 1))
like = xs[0], ts[0]
"""

FOUR = (
    START
    + """
mesh = jax.make_mesh((2, 2), ("a", "b"))
told = {}

# One learner by columns: dense J, and a sparse one kept by its rows.
sparse = sg.cells.GRU(3, 12, wiring=sg.wiring.Sparse(fan_in=2, seed=0), key=jax.random.key(5))
for name, given in {"rtrl": (), "snap": (sparse, sg.SnAp(2))}.items():
    alone = learner(*given)
    spread = sg.sharding.columns(alone, mesh)
    st, st4 = alone.init(key=jax.random.key(1), like=like), spread.init(key=jax.random.key(1), like=like)
    program = spread._step[False].lower(spread.program, st4, *like).compile()
    large = lambda st: max(st.arrays, key=lambda a: a.nbytes)
    bytes_ = large(st).nbytes, large(st4).addressable_shards[0].data.nbytes
    for k in range(8):
        st, out = alone.step(st, xs[k], ts[k])
        st4, out4 = spread.step(st4, xs[k], ts[k])
    st, outs = alone.run(st, xs[8:], ts[8:])
    st4, outs4 = spread.run(st4, xs[8:], ts[8:])
    told[name] = {
        "collectives": collectives(program),
        "bytes": bytes_,
        "after": large(st4).addressable_shards[0].data.nbytes,
        "weights": float(np.abs(weights(alone, st) - weights(spread, st4)).max()),
        "loss": float(np.abs(np.asarray(outs.loss) - np.asarray(outs4.loss)).max()),
    }

# Eight learners that share nothing.
alone = learner()
keys = jax.random.split(jax.random.key(2), 8)
sts = jax.vmap(lambda key: alone.init(key=key, model=model(key), like=like))(keys)
step = jax.jit(jax.vmap(alone.step))
sts4 = sg.sharding.streams(sts, mesh)
inputs = xs[:8], ts[:8]
row = jax.sharding.Mesh(mesh.devices.reshape(-1), ("devices",))
spread = jax.device_put(inputs, NamedSharding(row, PartitionSpec("devices")))
program = step.lower(sts4, *spread).compile()
st, out = step(sts, *inputs)
st4, out4 = step(sts4, *spread)
st4, out4 = step(st4, *spread)
st, out = step(st, *inputs)
told["streams"] = {
    "collectives": collectives(program),
    "loss": float(np.abs(np.asarray(out.loss) - np.asarray(out4.loss)).max()),
    "bytes": [sum(a.nbytes for a in sts.arrays), sum(a.addressable_shards[0].data.nbytes for a in st4.arrays)],
}
try:
    sg.sharding.streams(jax.tree.map(lambda a: a[:6], sts), mesh)
except ValueError as error:
    told["uneven"] = str(error)

# A fleet.
kernel = sg.fleet.Kernel(model, optax.adam(1e-2), loss=sg.losses.mse, like=like)
names = [int(k) for k in rng.zipf(1.3, size=300) % 90]
rows = names, rng.normal(size=(300, 3)), rng.normal(size=(300, 1))
one = sg.Fleet.of(kernel).update(*rows)
used, run = set(), kernel.programs._wave
def seen(*given):
    new, told = run(*given)
    used.update(new.devices())
    return new, told
seen.lower = run.lower
kernel.programs._wave = seen
spread = sg.sharding.streams(sg.Fleet.of(kernel), mesh)
four = spread.update(*rows)
p = kernel.programs
shapes = jax.eval_shape(lambda: (
    np.zeros((p.room, p.rows.words), np.uint32),
    jax.tree.map(lambda leaf: np.zeros((p.length, *leaf.shape), leaf.dtype), (p.x, p.target, np.zeros((), bool))),
    *[np.zeros(p.room, np.int32)] * 2, np.zeros((), np.int32)))
told["fleet"] = {
    "collectives": collectives(p._wave.lower(*shapes).compile()),
    "same": all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, four)),
    "devices": len(used),
}
print(json.dumps(told))
"""
)

TWO = (
    START
    + """
import os
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(sys.argv[1], num_processes=2, process_id=int(sys.argv[2]))
alone = learner()
spread = sg.sharding.columns(alone, jax.make_mesh((2,), ("devices",)))
st = spread.init(key=jax.random.key(1), like=like)
for k in range(12):
    st, out = spread.step(st, xs[k], ts[k])
large = max(st.arrays, key=lambda a: a.nbytes)
print(json.dumps({
    "processes": jax.process_count(),
    "loss": float(np.asarray(out.loss)),
    "bytes": [large.nbytes, large.addressable_shards[0].data.nbytes],
}))
"""
)


def started(script, *arguments, devices):
    flags = f"--xla_force_host_platform_device_count={devices} {FLAGS}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(PACKAGE), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process):
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


@pytest.fixture(scope="module")
def four():
    return told(started(FOUR, devices=4))


@pytest.mark.parametrize("name", ["rtrl", "snap"])
def test_columns_gather_the_gradient_and_nothing_else(four, name):
    found = four[name]
    assert [each.split()[0] for each in found["collectives"]] == ["all-gather"], found["collectives"]
    whole, part = found["bytes"]
    assert whole <= 4 * part <= whole * 1.2 and found["after"] == part
    assert found["weights"] < 3e-9 and found["loss"] < 3e-9


def test_learners_that_share_nothing_say_nothing(four):
    found = four["streams"]
    assert found["collectives"] == [] and found["loss"] < 1e-12
    assert found["bytes"][0] == 4 * found["bytes"][1]
    assert "6 learners cannot be shared out evenly over 4 devices" in four["uneven"]


def test_a_fleet_over_devices_says_nothing_and_keeps_its_bits(four):
    assert four["fleet"] == {"collectives": [], "same": True, "devices": 4}


def test_two_processes():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    both = [started(TWO, address, k, devices=1) for k in range(2)]
    first, second = map(told, both)
    assert first == second and first["processes"] == 2
    assert first["bytes"][0] == 2 * first["bytes"][1]
    # As in this process, alone.
    rng = np.random.default_rng(0)
    xs, ts = rng.normal(size=(24, 3)), rng.normal(size=(24, 1))
    a, b = jax.random.split(jax.random.key(0))
    model = sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(3, 12, key=a), sg.RTRL()), sg.Readout(12, 1, key=b)])
    learner = sg.Learner(model, optax.adam(1e-2), loss=sg.losses.mse)
    _, out = learner.run(learner.init(key=jax.random.key(1)), xs[:12], ts[:12])
    assert abs(float(out.loss[-1]) - first["loss"]) < 3e-9


def test_what_cannot_be_spread_is_refused():
    a, b = jax.random.split(jax.random.key(0))
    mesh = jax.make_mesh((1,), ("devices",))
    model = sg.nn.Sequential([sg.Recurrent(sg.cells.LRU(3, 4, key=a), sg.RTRL()), sg.Readout(3, 1, key=b)])
    learner = sg.Learner(model, optax.sgd(1e-2), loss=sg.losses.mse)
    with pytest.raises(TypeError, match="no influence to split: this model's layers keep RTRL"):
        sg.sharding.columns(learner, mesh)
    with pytest.raises(TypeError, match="state of one"):
        sg.sharding.streams(learner.init(key=a), mesh)
    with pytest.raises(TypeError, match="mesh"):
        sg.sharding.columns(learner, 4)
