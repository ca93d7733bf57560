"""Atari prediction: foresee the rewards of a game that a fixed policy plays (arXiv 2302.05326).

A game is played once and the stream is kept in a file, so that every learner reads the same observations. The
emulator is the Arcade Learning Environment, set as its `ALE/<game>-v5`: frames are skipped by four, a frame repeats
the action of the one before with probability 0.25, and an episode ends after 108,000 frames at the latest.

The policy is not a trained one. It keeps an action for a random number of steps, geometric of mean `HOLD`, and then
draws another from those that the game knows (its minimal action set). Where FIRE is one of them, it is the first
action of every episode and of every life, since some games wait for it. Rewards are rarer than under a good player.

The observation of a step is what the last action led to. When a game is over the emulator is reset and the stream
goes on: the first observation of an episode has no reward, and NOOP for its last action.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import importlib.metadata
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int8, UInt8

from streamgrad.checkpoint import whole_file
from streamgrad.data.errors import SourceError

SIDE = 16  # pixels of a frame, each way
ACTIONS = 18  # of the console, whatever the game knows of them
SIZE = SIDE * SIDE + ACTIONS + 1  # inputs of a step
GAMMA = 0.98  # discount of the return that is to be predicted
SKIP = 4  # frames of the console in a step
REPEAT = 0.25  # probability that a frame repeats the action of the one before
LONGEST = 108_000  # frames of an episode
HOLD = 16  # steps between two draws of the policy, on average: about a second
NOOP, FIRE = 0, 1
FORMAT = "1"  # of a recording: its arrays, how a frame is shrunk, the policy
TWO_PLAYERS = {"combat", "joust", "maze_craze", "warlords"}  # games that no one can play alone

Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Meta:
    """What a recording is of: the game, the seed, the number of steps, and the versions that made it."""

    game: str
    seed: int
    steps: int
    versions: dict[str, str]


@dataclasses.dataclass(frozen=True, eq=False)
class Recording:
    """A stream of observations, `meta.steps` of them.

    - `frames`: uint8 grey levels, 0 to 255.
    - `actions`: uint8, the action that was last chosen, 0 to 17.
    - `rewards`: int8, the sign of what the action earned: -1, 0 or 1.
    - `starts`: whether an episode begins with this observation.

    Raises `SourceError` where these do not fit together.
    """

    frames: UInt8[np.ndarray, "time 16 16"]
    actions: UInt8[np.ndarray, " time"]
    rewards: Int8[np.ndarray, " time"]
    starts: Bool[np.ndarray, " time"]
    meta: Meta

    def __post_init__(self):
        time = (self.meta.steps,)
        kinds = {"frames": (np.uint8, (*time, SIDE, SIDE)), "actions": (np.uint8, time)}
        kinds |= {"rewards": (np.int8, time), "starts": (np.bool_, time)}
        for name, (dtype, shape) in kinds.items():
            array = getattr(self, name)
            if array.shape != shape or array.dtype != dtype:
                raise SourceError(
                    f"a recording of {time[0]} steps: {name} have shape {array.shape} and dtype {array.dtype}; "
                    f"give {np.dtype(dtype)} of shape {shape}."
                )
        if np.any(self.actions >= ACTIONS) or np.any(np.abs(self.rewards) > 1) or not np.all(self.starts[:1]):
            raise SourceError(
                f"a recording of {self.meta.game}: give actions from 0 to {ACTIONS - 1}, rewards of -1, 0 or 1, "
                "and an episode that starts at the first step."
            )

    def __len__(self) -> int:
        """The number of steps."""
        return len(self.frames)


def inputs(recording: Recording, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, "n 275"]:
    """What a learner sees at the steps from `start` up to `stop`, the end where it is None.

    256 grey levels of the frame, row by row, in [0, 1]; the last action, one-hot over all 18; the reward that
    arrived with the frame. Raises `ValueError` where the recording does not hold these steps.
    """
    part = _part(recording, start, stop)
    n = part.stop - part.start
    xs = np.zeros((n, SIZE), np.float32)
    np.divide(recording.frames[part].reshape(n, SIDE * SIDE), np.float32(255), out=xs[:, : SIDE * SIDE])
    xs[np.arange(n), SIDE * SIDE + recording.actions[part].astype(np.intp)] = 1
    xs[:, -1] = recording.rewards[part]
    return xs


def cumulants(recording: Recording, start: int = 0, stop: int | None = None) -> Float32[np.ndarray, " n"]:
    """The rewards of these steps, as in `inputs`: what is summed, with discount `GAMMA`, from the next step on."""
    return recording.rewards[_part(recording, start, stop)].astype(np.float32)


def record(game: str, steps: int, seed: int, progress: Progress | None = None) -> Recording:
    """Play `steps` steps of a game.

    The same arguments give the same recording, bit for bit, with one version of ale-py.

    **Arguments:**

    - `game`: its name in `ALE/<game>-v5`, such as Pong, Breakout or MsPacman.
    - `seed`: of the policy and of the emulator.
    - `progress`: called with the steps done and `steps`, after every thousand and at the end.

    Raises `ValueError` where there is no such game, `steps` is less than 1 or `seed` is negative, `SourceError`
    where ale-py is not installed or cannot read the game.
    """
    _check(steps, seed)
    emulator = _Emulator(_rom(game), seed)
    policy = _Policy(emulator.actions, seed)
    frames, rewards = np.empty((steps, SIDE, SIDE), np.uint8), np.zeros(steps, np.int8)
    actions, starts = np.full(steps, NOOP, np.uint8), np.zeros(steps, np.bool_)
    starts[0] = True
    for t in range(steps):
        if t > 0 and emulator.over:
            emulator.reset()
            starts[t] = True
        elif t > 0:
            actions[t] = policy(emulator.waiting)
            rewards[t] = np.sign(emulator.act(int(actions[t])))
        frames[t] = emulator.frame()
        if progress is not None and ((t + 1) % 1000 == 0 or t + 1 == steps):
            progress(t + 1, steps)
    versions = {"recording": FORMAT, "ale-py": _installed() or "unknown"}
    return Recording(frames, actions, rewards, starts, Meta(game, int(seed), int(steps), versions))


def load_or_record(
    folder: str | os.PathLike[str], game: str, steps: int, seed: int, progress: Progress | None = None
) -> Recording:
    """The recording in `folder`; without one, `record` makes it and it is kept there.

    The file is `atari-<game>-<steps>-<seed>.npz`, and it is either whole or not there. Reading it needs no ale-py.

    Raises what `record` raises, and `SourceError` where the file is damaged, comes from other versions, or cannot
    be read or written.
    """
    _check(steps, seed)
    path = Path(folder).expanduser() / f"atari-{game}-{steps}-{seed}.npz"
    if game.isalnum() and path.exists():  # any other name may lead out of the folder
        return _load(path, game, steps, seed)
    _rom(game)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # before the work is done
    except OSError as error:
        raise _unwritable(path, error) from None
    recording = record(game, steps, seed, progress)
    _save(path, recording)
    return recording


def _check(steps: int, seed: int) -> None:
    for name, value, low in (("steps", steps, 1), ("seed", seed, 0)):
        if value < low:
            raise ValueError(f"Atari: {name} must be at least {low}, got {value}.")


def _part(recording: Recording, start: int, stop: int | None) -> slice:
    """The steps from `start` up to `stop`."""
    stop = len(recording) if stop is None else stop
    if not 0 <= start <= stop <= len(recording):
        raise ValueError(
            f"the recording of {recording.meta.game} has no steps from {start} to {stop}: it has {len(recording)}."
        )
    return slice(start, stop)


# The game


def _rom(game: str) -> str:
    """What the emulator calls a game."""
    try:
        from ale_py import roms
    except ImportError:
        raise SourceError(
            "Atari games are played by the packages ale-py and gymnasium, which are not both installed: "
            "pip install 'streamgrad[atari]' brings them."
        ) from None
    games = {name.title().replace("_", ""): name for name in roms.get_all_rom_ids() if name not in TWO_PLAYERS}
    if game in games:
        return games[game]
    plain = {name.lower(): name for name in games}
    asked = game.lower().removeprefix("ale/").removesuffix("-v5").replace("_", "").replace(" ", "")
    found = [asked] if asked in plain else difflib.get_close_matches(asked, list(plain), n=3, cutoff=0.5)
    near = [plain[name] for name in found]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    raise ValueError(
        f"there is no Atari game {game!r}: {hint}There are {len(games)}, such as Pong, Breakout and MsPacman."
    )


def _installed() -> str | None:
    """The version of ale-py; None where it is not installed."""
    try:
        return importlib.metadata.version("ale-py")
    except importlib.metadata.PackageNotFoundError:
        return None


class _Emulator:
    """One game that is being played.

    `actions` are those that the game knows. `waiting`: a life has just begun.
    """

    def __init__(self, rom: str, seed: int):
        import ale_py
        from ale_py import roms

        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)  # before it prints its banner
        self._ale = ale = ale_py.ALEInterface()
        ale.setInt("random_seed", int(np.random.SeedSequence(seed).generate_state(1)[0] >> 1))
        ale.setInt("max_num_frames_per_episode", LONGEST)
        ale.setFloat("repeat_action_probability", REPEAT)
        try:
            path = roms.get_rom_path(rom)
        except OSError as error:
            raise SourceError(
                f"ale-py cannot read the game {rom} ({error}): pip install --force-reinstall ale-py may mend it."
            ) from None
        assert path is not None  # of every game that it lists
        ale.loadROM(path)
        self.actions = [action.value for action in ale.getMinimalActionSet()]
        self._screen = np.empty(ale.getScreenDims(), np.uint8)
        self.reset()

    def reset(self) -> None:
        """Begin an episode."""
        self._ale.reset_game()
        self._lives, self.waiting = self._ale.lives(), True

    @property
    def over(self) -> bool:
        """Whether the episode has ended."""
        return self._ale.game_over()

    def act(self, action: int) -> int:
        """Play a step; the reward, in the game's own points."""
        reward = sum(self._ale.act(action) for _ in range(SKIP))
        lives = self._ale.lives()
        self._lives, self.waiting = lives, lives < self._lives
        return reward

    def frame(self) -> UInt8[np.ndarray, "16 16"]:
        """What the screen shows."""
        self._ale.getScreenGrayscale(self._screen)
        return _shrink(self._screen)


class _Policy:
    """A seeded player, who draws an action and keeps to it for a while."""

    def __init__(self, actions: list[int], seed: int):
        self._actions, self._rng = actions, np.random.default_rng(seed)
        self._kept = self._draw()

    def __call__(self, waiting: bool) -> int:
        """The next action; `waiting`: a life has just begun."""
        if waiting and FIRE in self._actions:
            return FIRE
        if self._rng.random() < 1 / HOLD:
            self._kept = self._draw()
        return self._kept

    def _draw(self) -> int:
        return self._actions[int(self._rng.random() * len(self._actions))]


def _shrink(screen: UInt8[np.ndarray, "height width"]) -> UInt8[np.ndarray, "16 16"]:
    """Means over 16 × 16 rectangles that divide the screen evenly, rounded to the nearest grey level.

    A pixel that lies in several rectangles counts in each by the share of its area. Areas are counted in whole
    1/256 of a pixel: all sums are whole numbers below 2^24, and so exact in float32 in whatever order they are made.
    """
    height, width = screen.shape
    sums = _overlaps(height) @ screen.astype(np.float32) @ _overlaps(width).T
    area = height * width  # of a rectangle, in 1/256 of a pixel
    return ((sums.astype(np.int32) + area // 2) // area).astype(np.uint8)


@functools.cache
def _overlaps(n: int) -> Float32[np.ndarray, "16 n"]:
    """How much of each of n pixels, in 1/16 of it, lies in each of 16 even parts of their row."""
    part, pixel = np.arange(SIDE)[:, None], np.arange(n)
    low = np.maximum(part * n, pixel * SIDE)
    high = np.minimum((part + 1) * n, (pixel + 1) * SIDE)
    return np.maximum(high - low, 0).astype(np.float32)


# The file


def _save(path: Path, recording: Recording) -> None:
    """Write the file whole or not at all."""
    arrays = {name: getattr(recording, name) for name in ("frames", "actions", "rewards", "starts")}
    meta = np.array(json.dumps(dataclasses.asdict(recording.meta)))
    try:
        with whole_file(path) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, meta=meta, **arrays)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: Path, error: OSError) -> SourceError:
    reason = os.strerror(error.errno or 0)
    return SourceError(f"the recording {path} cannot be written ({reason}): free some space or choose another folder.")


def _load(path: Path, game: str, steps: int, seed: int) -> Recording:
    """A recording that was kept, if it is the one that is wanted."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise SourceError(f"{path} cannot be read ({reason}): check that it is a file and its permissions.") from None
    remedy = "delete it, and it is recorded anew, or choose another folder"
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            meta = Meta(**json.loads(str(file["meta"])))
            arrays = {name: file[name] for name in ("frames", "actions", "rewards", "starts")}
        recording = Recording(**arrays, meta=meta)
        made = dict(meta.versions)
    except Exception:  # the file may be damaged in any way
        raise SourceError(f"{path} is not a whole recording of an Atari game: {remedy}.") from None
    if (meta.game, meta.steps, meta.seed) != (game, steps, seed):
        raise SourceError(
            f"{path} holds {meta.steps} steps of {meta.game} with seed {meta.seed}, and {steps} of {game} with "
            f"seed {seed} were expected: give it back its name, or {remedy}."
        )
    ours = {"recording": FORMAT, "ale-py": _installed() or made.get("ale-py")}
    if made != ours:
        said, expected = (", ".join(f"{name} {version}" for name, version in v.items()) for v in (made, ours))
        raise SourceError(f"{path} was made by {said}, and here is {expected}: {remedy}, or install those versions.")
    return recording
