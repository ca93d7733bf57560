"""Sessions: the same numbers as `run`, whatever happens to the process around them."""

import os
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import streamgrad as sg
from streamgrad._base.words import Unfit, Words
from streamgrad.session import _native

STEPS = 40


@pytest.fixture(scope="module", autouse=True)
def _built(tmp_path_factory):
    """The native piece, built into a folder of these tests."""
    folder = str(tmp_path_factory.mktemp("session"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_native.VARIABLE, folder)
        _native.load.cache_clear()
        try:
            _native.build()
        except RuntimeError as error:
            pytest.skip(str(error))
        yield
    _native.load.cache_clear()


needs_threads = pytest.mark.skipif(_native.threads() < 2, reason="one visible core: sessions do without native code")


def model(key=0, inputs=3, outputs=2):
    k = jax.random.split(jax.random.key(key))
    cell = sg.cells.GRU(inputs, 5, key=k[0])
    return sg.nn.Sequential([sg.Recurrent(cell, sg.SnAp(1)), sg.Readout(5, outputs, key=k[1])])


def stream(*lead, inputs=3, outputs=2, steps=STEPS):
    rng = np.random.default_rng(0)
    xs, targets = rng.normal(size=(steps, *lead, inputs)), rng.normal(size=(steps, *lead, outputs))
    targets[5, ..., 0] = np.nan
    return xs, targets


LEARNERS = {
    "sgd": lambda: sg.Learner(model(), optax.sgd(1e-2), loss=sg.losses.mse),
    "adam, delay": lambda: sg.Learner(model(), optax.adam(1e-2), loss=sg.losses.mse, delay=2),
    "kalman": lambda: sg.Learner(model(), sg.Kalman("unit"), loss=sg.losses.mse),
    "streams, window": lambda: sg.Learner(model(), optax.sgd(1e-2), loss=sg.losses.mse, streams=3, update_every=4),
}


def same(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(one, other)


@needs_threads
@pytest.mark.parametrize("name", LEARNERS)
def test_a_session_gives_what_run_gives(name):
    learner = LEARNERS[name]()
    lead = () if "streams" not in name else (3,)
    xs, targets = stream(*lead)
    resets = np.zeros((STEPS, *lead), bool)
    resets[17] = True
    state, whole = learner.run(learner.init(key=jax.random.key(1)), xs, targets, resets=resets)
    with learner.session(learner.init(key=jax.random.key(1)), native=True) as session:
        outs = [session.step(x, t, reset=r) for x, t, r in zip(xs, targets, resets, strict=True)]
        assert session.native
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *outs), whole)
    same(session.state.arrays, state.arrays)
    assert all(isinstance(leaf, np.ndarray) for leaf in outs[0])


def test_without_native_code_the_numbers_are_the_same():
    learner, (xs, targets) = LEARNERS["sgd"](), stream()
    state, whole = learner.run(learner.init(key=jax.random.key(1)), xs, targets)
    with learner.session(learner.init(key=jax.random.key(1)), native=False) as session:
        outs = [session.step(x, t) for x, t in zip(xs, targets, strict=True)]
        assert not session.native
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *outs), whole)
    same(session.state.arrays, state.arrays)


@needs_threads
def test_td_takes_its_shares_by_name():
    learner = sg.td.TDLambda(model(outputs=1), optax.sgd(1e-2), gamma=0.9, lam=0.8)
    xs, cumulants = stream(outputs=1)
    state = learner.init(key=jax.random.key(1))
    singly = []
    for t, (x, c) in enumerate(zip(xs, cumulants, strict=True)):
        state, out = learner.step(state, x, c, gamma=np.asarray(0.5), reset=np.asarray(t == 9))
        singly.append(jax.tree.map(np.asarray, out))
    with learner.session(learner.init(key=jax.random.key(1)), native=True) as session:
        held = [
            session.step(x, c, gamma=np.asarray(0.5), reset=np.asarray(t == 9))
            for t, (x, c) in enumerate(zip(xs, cumulants, strict=True))
        ]
    for one, other in zip(singly, held, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    assert session.state.steps == STEPS


@needs_threads
def test_a_mixture_and_its_growth_from_nothing():
    mixture = sg.Mixture([LEARNERS["sgd"](), LEARNERS["kalman"]()])
    xs, targets = stream()
    _, whole = mixture.run(mixture.init(key=jax.random.key(1)), xs, targets)
    with mixture.session(mixture.init(key=jax.random.key(1)), native=True) as session:
        outs = [session.step(x, t) for x, t in zip(xs, targets, strict=True)]
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *outs), whole)


@needs_threads
def test_a_model_that_grows_is_refused():
    net = sg.nn.ccn(3, units=2, per_stage=1, every=10, key=jax.random.key(0))
    learner = sg.td.TDLambda(net, optax.sgd(1e-2), gamma=0.9)
    session = learner.session(learner.init(key=jax.random.key(0)), native=True)
    with pytest.raises(TypeError, match="grows by itself"):
        session.step(np.zeros(3), np.zeros(1))
    session.close()


@needs_threads
def test_the_state_in_the_middle_is_a_copy(tmp_path):
    learner, (xs, targets) = LEARNERS["adam, delay"](), stream()
    with learner.session(learner.init(key=jax.random.key(1)), native=True) as session:
        for x, t in zip(xs[:20], targets[:20], strict=True):
            session.step(x, t)
        sg.checkpoint.save(tmp_path / "half", session.state, step=20)
        half = session.state
        rest = [session.step(x, t) for x, t in zip(xs[20:], targets[20:], strict=True)]
    _, again = learner.run(half, xs[20:], targets[20:])
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *rest), again)
    like = learner.init(key=jax.random.key(1), like=(xs[0], targets[0]))
    loaded = sg.checkpoint.load(tmp_path / "half", like=like).tree
    _, again = learner.run(loaded, xs[20:], targets[20:])
    same(jax.tree.map(lambda *leaves: np.stack(leaves), *rest), again)


@needs_threads
def test_what_step_refuses_is_refused_and_changes_nothing():
    learner, (xs, targets) = LEARNERS["sgd"](), stream()
    session = learner.session(learner.init(key=jax.random.key(1)), native=True)
    session.step(xs[0], targets[0])
    with pytest.raises((TypeError, ValueError)):
        session.step(xs[0][:2], targets[0])
    with pytest.raises(TypeError):
        session.step(xs[1], targets[1], gamma=1.0)
    session.step(xs[1].tolist(), targets[1].tolist())
    session.step(xs[2].astype(np.float32), targets[2])  # another form of row: another loop
    session.step(xs[2], targets[2])
    assert session.state.steps == 4
    session.close()
    session.close()
    with pytest.raises(RuntimeError, match="closed"):
        session.step(xs[0], targets[0])


@needs_threads
def test_a_thread_is_left_to_all_other_calls():
    learner, (xs, targets) = LEARNERS["sgd"](), stream()
    open_ = [learner.session(learner.init(key=jax.random.key(k))) for k in range(_native.threads())]
    for session in open_:
        session.step(xs[0], targets[0])
    assert [session.native for session in open_] == [True] * (_native.threads() - 1) + [False]
    with pytest.raises(RuntimeError, match="sessions are open"):
        learner.session(learner.init(key=jax.random.key(9)), native=True)
    assert float(jnp.ones(10_000).sum()) == 10_000
    for session in open_:
        session.close()


def test_words_hold_numbers_and_flags():
    tree = (jnp.arange(3.0), jnp.array(7, jnp.int32), jnp.array([True, False]), jnp.ones((2, 2), jnp.float32) / 3)
    words = Words(tree)
    vector = jax.jit(words.of)(tree)
    same(words.tree(vector), tree)
    same(words.read(words.views(np.array(vector))), tree)
    with pytest.raises(Unfit, match="bfloat16"):
        Words(jnp.zeros(2, jnp.bfloat16))


def test_numbers_of_two_bytes_go_without_the_loop():
    learner, (xs, targets) = LEARNERS["sgd"](), stream()
    with learner.session(learner.init(key=jax.random.key(1))) as session:
        session.step(xs[0].astype(np.float16), targets[0].astype(np.float16))
        assert not session.native


BEGIN = """
    import gc, os, signal, sys, time
    import jax, numpy as np, optax, streamgrad as sg
    k = jax.random.key(0)
    model = sg.nn.Sequential([sg.Recurrent(sg.cells.GRU(3, 5, key=k), sg.SnAp(1)), sg.Readout(5, 1, key=k)])
    learner = sg.Learner(model, optax.sgd(1e-2), loss=sg.losses.mse)
    x, y = np.ones(3, np.float32), np.ones(1, np.float32)
    session = learner.session(learner.init(key=k))
    session.step(x, y)
"""
LIVES = {
    "exit without close": "print('native', session.native)",
    "collected": "del session; gc.collect(); print(float(jax.numpy.ones(9).sum()))",
    "exception within": """
        try:
            with session:
                session.step(x, y)
                raise KeyError("mine")
        except KeyError:
            print("steps", session.state.steps)
        """,
    "a thread that ends the process": """
        import threading
        threading.Timer(0.2, lambda: os._exit(0)).start()
        time.sleep(5)
        """,
    "fork": """
        child = os.fork()
        if not child:
            try:
                session.step(x, y)
            except RuntimeError as error:
                print("refused", "forked" in str(error), flush=True)
            os._exit(0)
        os.waitpid(child, 0)
        session.step(x, y)
        print("steps", session.state.steps)
        """,
    "Ctrl-C": """
        import threading
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        given = 1
        try:
            while True:
                session.step(x, y)
                given += 1
        except KeyboardInterrupt:
            pass
        session.step(x, y)
        taken = session.state.steps
        print("steps", given + 1 <= taken <= given + 2)
        """,
}


def lived(code, **environment):
    """What a process of its own printed; it must end by itself."""
    text = textwrap.dedent(BEGIN) + textwrap.dedent(code)
    env = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(sg.__file__)), **environment}
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", text], env=env, timeout=120, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@pytest.mark.full
@needs_threads
@pytest.mark.parametrize("life", LIVES)
def test_a_process_with_a_session_ends(life):
    began = time.monotonic()
    said = lived(LIVES[life])
    expected = {
        "exit without close": ["native", "True"],
        "collected": ["9.0"],
        "exception within": ["steps", "2"],
        "fork": ["refused", "True", "steps", "2"],
        "Ctrl-C": ["steps", "True"],
    }
    assert said == expected.get(life, [])
    assert time.monotonic() - began < 100


@pytest.mark.full
def test_one_visible_core_does_without():
    assert lived("print(session.native, session.state.steps)", NPROC="1") == ["False", "1"]
