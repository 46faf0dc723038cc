"""Results of earlier requests: the scores of an image, kept in this process and, if asked for, in a Redis.

- `opening`: the environment variables, and the cache that they ask for.
- `results`: `ResultCache`, the two levels as the endpoints see them.
- `memory`: the level of this process, bounded by bytes.
- `shared`: the level that replicas share, which may fail without a request noticing.
- `outage`: when a failing Redis is left alone, and what the log says about it.
- `values`: scores as bytes with a checksum.
"""

from service.cache.opening import open_cache
from service.cache.results import Counts, Level, ResultCache

__all__ = ["Counts", "Level", "ResultCache", "open_cache"]
