"""Experiments: typed settings, trials that can be resumed, and how their results are shown."""

from . import (
    atari_prediction,
    columns_gradient,
    copy_memory,
    copy_memory_depth,
    copy_memory_modes,
    deep_river_track,
    digits_stream,
    forecast,
    forecast_series,
    online_forecast,
    sequences,
    snap_bias,
    snap_charlm,
    snap_copy,
    trace_patterning,
)
from ._experiment import Experiment as Experiment, Recorder as Recorder, Trial as Trial
from ._folder import FolderError as FolderError, RunFolder as RunFolder

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        copy_memory.EXPERIMENT,
        copy_memory_depth.EXPERIMENT,
        copy_memory_modes.EXPERIMENT,
        sequences.DIGITS,
        digits_stream.EXPERIMENT,
        sequences.MNIST1D,
        sequences.LISTOPS,
        sequences.FASHION,
        sequences.SCIFAR,
        sequences.IMDB,
        columns_gradient.EXPERIMENT,
        trace_patterning.PATTERNING,
        trace_patterning.CONDITIONING,
        atari_prediction.EXPERIMENT,
        snap_copy.EXPERIMENT,
        snap_charlm.EXPERIMENT,
        snap_bias.EXPERIMENT,
        forecast.EXPERIMENT,
        forecast_series.EXPERIMENT,
        online_forecast.EXPERIMENT,
        deep_river_track.EXPERIMENT,
    )
}
