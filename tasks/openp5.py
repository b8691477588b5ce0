"""OpenP5 for SeqIO: importing this registers the datasets that the environment variable names.

    GENREC_OPENP5="data/lastfm=data/lastfm/index/random" python -c "import seqio, tasks.openp5"

Python callers register any index with `register(dataset_dir, index_dir, name_prefix=...)`.
"""

import os

from genrec_jax.pipeline import seqio_tasks

VARIABLE = "GENREC_OPENP5"

register = seqio_tasks.register
registered: tuple[str, ...] = ()

if os.environ.get(VARIABLE):
    registered = seqio_tasks.register_from_environment(os.environ[VARIABLE])
