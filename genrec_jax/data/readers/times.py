"""The time formats of the reader `table`, and the advice if the given format is wrong."""

import itertools

import polars as pl

from genrec_jax.data.readers import staging

TIME_UNITS = {"seconds": 1, "milliseconds": 1000, "microseconds": 1_000_000}
TIME_FORMATS = [
    f"%Y-%m-%d{between}{clock}{zone}"
    for between, clock in (("", ""), *itertools.product((" ", "T"), ("%H:%M", "%H:%M:%S%.f")))
    for zone in (("", "Z", "%z") if clock else ("",))
]
PLAUSIBLE = (631_152_000, staging.LATEST_TIMESTAMP)  # from 1990 on


def remedy(text: str, time_unit: str, time_format: str | None) -> str | None:
    """Advice if times do not seem to have the given format, else None.

    For example `1700000000000`, taken for seconds, gives "It looks like milliseconds since 1970. Pass
    --time-unit milliseconds".
    """
    try:
        number = float(text)
    except ValueError:
        for form in TIME_FORMATS:
            if pl.Series([text]).str.to_datetime(form, strict=False)[0] is not None:
                return f"It looks like a date. Pass --time-format {form!r}"
        if sum(letter.isdigit() for letter in text) < 4:
            return None
        return "If it is a date, pass the --time-format that reads it, such as '%d.%m.%Y %H:%M'"
    for unit, scale in {**TIME_UNITS, "nanoseconds": 1_000_000_000}.items():
        if not PLAUSIBLE[0] <= number / scale < PLAUSIBLE[1]:
            continue
        looks = f"It looks like {unit} since 1970"
        if unit == "nanoseconds":
            return f"{looks}, which are not read. Divide by 1000 and pass --time-unit microseconds"
        if time_format is None:
            return f"{looks}. Pass --time-unit {unit}" if unit != time_unit else None
        also = f" and pass --time-unit {unit}" if unit != time_unit else ""
        return f"{looks}. Leave --time-format out{also}"
    return None
