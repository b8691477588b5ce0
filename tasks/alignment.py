"""The alignment system for SeqIO: importing this registers what the environment variable names.

    GENREC_ALIGNMENT="data/toys=data/toys/index/short" python -c "import seqio, tasks.alignment"

Python callers register any index with `register(dataset_dir, index_dir, name_prefix=...)`.
"""

import os

from genrec_jax.pipeline import seqio_alignment

VARIABLE = "GENREC_ALIGNMENT"

register = seqio_alignment.register
registered: tuple[str, ...] = ()

if os.environ.get(VARIABLE):
    registered = seqio_alignment.register_from_environment(os.environ[VARIABLE])
