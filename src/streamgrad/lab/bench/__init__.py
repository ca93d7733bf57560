"""Speed, as ratios measured in one run beside a baseline: `streamgrad bench`."""

from ._rows import ROWS as ROWS, Row as Row, measure as measure
