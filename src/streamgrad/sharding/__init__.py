"""Several devices: independent streams and fleets side by side, and one large influence by its columns."""

from ._columns import columns as columns
from ._streams import streams as streams
