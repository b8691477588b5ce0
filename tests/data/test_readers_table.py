import gzip

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import reading

from genrec_jax.data import prepare, prepare_run
from genrec_jax.data.readers import staging, table
from genrec_jax.errors import UserError

COLUMNS = ("user", "item", "timestamp", "rating")
FRAME = pl.DataFrame(
    {
        "rating": [1.0, 2.5],
        "visitor": [7, 8],
        "sku": ["a", 'b "x", y'],
        "when": [1_000_000, 2_000_000],
    }
)
NAMED = "user=visitor,item=sku,timestamp=when,rating=rating"
WANTED = [("7", "a", 1_000_000, 1.0), ("8", 'b "x", y', 2_000_000, 2.5)]


def write(tmp_path, kind):
    file = tmp_path / f"log.{kind}"
    if kind == "csv":
        FRAME.write_csv(file)
    elif kind == "tsv":
        FRAME.write_csv(file, separator="\t")
    elif kind == "parquet":
        FRAME.write_parquet(file)
    elif kind == "jsonl":
        FRAME.write_ndjson(file)
    elif kind == "csv.gz":
        plain = tmp_path / "plain.csv"
        FRAME.write_csv(plain)
        file.write_bytes(gzip.compress(plain.read_bytes()))
    return file


@pytest.mark.parametrize("kind", ["csv", "tsv", "parquet", "jsonl", "csv.gz"])
def test_named_columns(tmp_path, kind):
    quoted = {"quoted": True} if kind == "tsv" else {}
    for columns in (NAMED, dict(pair.split("=") for pair in NAMED.split(","))):
        log = reading.read("table", write(tmp_path, kind), tmp_path, columns=columns, **quoted)
        assert reading.rows(log, *COLUMNS) == WANTED
        assert not log.order_trusted


def test_our_names_need_no_naming(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("item,user\na,1\nb,1\n")
    log = reading.read("table", file, tmp_path)
    assert reading.rows(log, "user", "item") == [("1", "a"), ("1", "b")]
    assert log.order_trusted


def test_without_a_header(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("a;1;x;100\nb;2;y;200\n")
    log = reading.read(
        "table", file, tmp_path, header=False, separator=";", columns="item,user,_,timestamp"
    )
    assert reading.rows(log, "user", "item", "timestamp") == [("1", "a", 100), ("2", "b", 200)]
    with pytest.raises(UserError, match=r":1: has 4 columns; --columns names 2 \(user, item\)"):
        reading.read("table", file, tmp_path, header=False, separator=";", columns="user,item")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [(r"\t", "\t"), (r"\x01", "\x01"), (r"\001", "\x01"), (r"\\", "\\"), ("\\", "\\"), ("é", "é")],
)
@pytest.mark.parametrize("header", [True, False])
def test_separators_as_they_are_typed(tmp_path, typed, meant, header):
    file = tmp_path / "log.csv"
    lines = [["user", "item"]] * header + [["u", "a,b"]]
    file.write_text("".join(meant.join(line) + "\n" for line in lines))
    options = {} if header else {"header": False, "columns": "user,item"}
    log = reading.read("table", file, tmp_path, separator=typed, **options)
    assert reading.rows(log, "user", "item") == [("u", "a,b")]


@pytest.mark.parametrize(
    ("kind", "line", "separator", "advice"),
    [
        ("csv", "user\titem\ttimestamp", None, r"'\t'"),
        ("csv", "user;item;note date", None, "';'"),
        ("tsv", "user,item", None, "','"),
        ("txt", "user::item::timestamp", None, "'::'"),
        ("csv", "user,item", "|", "','"),
    ],
)
def test_another_separator_is_named(tmp_path, kind, line, separator, advice):
    file = tmp_path / f"log.{kind}"
    file.write_text(line + "\n" + line.replace("user", "u") + "\n")
    for options in ({}, {"header": False, "columns": "user,item"}):
        with pytest.raises(UserError) as caught:
            reading.read("table", file, tmp_path, separator=separator, **options)
        assert f"log.{kind}:1: has one column" in str(caught.value)
        assert str(caught.value).endswith(f"Pass --separator {advice}")


def test_units_and_formats_of_time(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user,item,timestamp\nu,a,1588687728923\n")
    log = reading.read("table", file, tmp_path, time_unit="milliseconds")
    assert reading.rows(log, "timestamp") == [(1588687728,)]
    file.write_text("user,item,timestamp\nu,a,05.05.2020 14:08\n")
    log = reading.read("table", file, tmp_path, time_format="%d.%m.%Y %H:%M")
    assert reading.rows(log, "timestamp") == [(1588687680,)]
    dates = pl.DataFrame({"user": ["u"], "item": ["a"], "timestamp": ["2020-05-05"]})
    dates = dates.with_columns(pl.col("timestamp").str.to_datetime("%Y-%m-%d"))
    dates.write_parquet(tmp_path / "log.parquet")
    log = reading.read("table", tmp_path / "log.parquet", tmp_path)
    assert reading.rows(log, "timestamp") == [(1588636800,)]
    with pytest.raises(UserError, match="--time-unit 'years' is unknown"):
        reading.read("table", file, tmp_path, time_unit="years")


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize(
    ("time", "options", "advice", "seconds"),
    [
        ("1700000000000", {}, {"time_unit": "milliseconds"}, 1_700_000_000),
        ("1.7e15", {"time_unit": "milliseconds"}, {"time_unit": "microseconds"}, 1_700_000_000),
        ("2024-03-01", {}, {"time_format": "%Y-%m-%d"}, 1_709_251_200),
        ("2024-03-01T12:00:00Z", {}, {"time_format": "%Y-%m-%dT%H:%M:%S%.fZ"}, 1_709_294_400),
        ("2024-03-01 12:00:00.5", {}, {"time_format": "%Y-%m-%d %H:%M:%S%.f"}, 1_709_294_400),
        (
            "2024-03-01 12:00+01:00",
            {"time_format": "%Y-%m-%d"},
            {"time_format": "%Y-%m-%d %H:%M%z"},
            1_709_290_800,
        ),
    ],
)
def test_how_times_are_written_is_told(tmp_path, kind, time, options, advice, seconds):
    """The advice is taken, and the times then read."""
    file = tmp_path / f"log.{kind}"
    frame = pl.DataFrame({"user": ["u", "v"], "item": ["a", "a"], "timestamp": [time] * 2})
    frame.write_csv(file) if kind == "csv" else frame.write_ndjson(file)
    ((flag, value),) = advice.items()
    flag = f"Pass --{flag.replace('_', '-')} " + (f"'{value}'" if "format" in flag else value)
    line = {"csv": 2, "jsonl": 1}[kind]
    with pytest.raises(UserError) as caught:
        reading.read("table", file, tmp_path, **options)
    assert f"log.{kind}:{line}: impossible timestamp" in str(caught.value)
    assert str(caught.value).endswith(flag)
    with pytest.raises(UserError) as caught:  # not one row is left
        reading.read("table", file, tmp_path, skip_bad_rows=True, **options)
    assert str(caught.value).endswith(flag)
    log = reading.read("table", file, tmp_path, **advice)
    assert reading.rows(log, "timestamp") == [(seconds,)] * 2


@pytest.mark.parametrize(
    ("rows", "options", "advice"),
    [
        (
            "u,a,1700000000000\n",
            {"time_format": "%Y"},
            r"milliseconds .*\. Leave .* and pass --time-u",
        ),
        (
            "u,a,1700000000\n",
            {"time_format": "%Y-%m"},
            r"seconds since 1970\. Leave --time-format out$",
        ),
        (
            "u,a,1700000000000000000\n",
            {},
            r"nanoseconds.*Divide by 1000 and pass --time-unit micro",
        ),
        (
            "u,a,1.3.2024 12:00\n",
            {},
            r"pass the --time-format that reads it, such as '%d",
        ),
        (
            "u,a,1700000000\nu,b,1700000000000\n",
            {},
            r"milliseconds; if only some are so: Mend the file, or",
        ),
        ("u,a,n/a\n", {}, r"where named\. Mend the file, or pass --skip-bad-rows"),
        ("u,a,-5\n", {}, r"where named\. Mend the file, or pass --skip-bad-rows"),
        (",a,1700000000000\n", {}, r":2: missing user.* where named\. Mend the file, or"),
    ],
)
def test_other_times_that_cannot_be(tmp_path, rows, options, advice):
    file = tmp_path / "log.csv"
    file.write_text("user,item,timestamp\n" + rows)
    with pytest.raises(UserError, match=advice):
        reading.read("table", file, tmp_path, **options)


@pytest.mark.parametrize(
    "flag", [{"time_unit": "milliseconds"}, {"time_format": "%Y-%m-%d %H:%M:%S"}]
)
def test_times_that_are_times_already_take_no_flag(tmp_path, flag):
    """Seconds of 2023 divided by 1000 would be those of January 1970, and tie."""
    file = tmp_path / "log.parquet"
    times = pl.from_epoch(pl.Series("timestamp", [1_700_000_000, 1_700_000_060]), "s")
    pl.DataFrame({"user": ["u", "u"], "item": ["a", "b"], "timestamp": times}).write_parquet(file)
    with pytest.raises(UserError, match=r"holds timestamp\[us\], which are times as they are"):
        reading.read("table", file, tmp_path, **flag)


@pytest.mark.parametrize("kind", ["milliseconds", "seconds", "exponents", "text", "parquet"])
def test_what_shares_a_second_keeps_its_order(tmp_path, kind):
    """The log has each user's last two interactions newest first, a tenth of a second apart."""
    file = tmp_path / ("log.parquet" if kind == "parquet" else "log.csv")
    ticks = [1_700_000_000_000, 1_700_000_050_900, 1_700_000_050_800, 1_700_000_050_100]
    frame = pl.DataFrame(
        {"user": [u for u in "vw" for _ in ticks], "item": ["a", "d", "c", "b"] * 2}
    )
    times = pl.Series("timestamp", ticks * 2)
    options = {"time_unit": "milliseconds"} if kind == "milliseconds" else {}
    if kind == "seconds":
        times = pl.Series("timestamp", [str(n / 1000).removesuffix(".0") for n in ticks * 2])
    if kind == "exponents":
        times = pl.Series("timestamp", [f"{n / 1000:.12e}" for n in ticks * 2])
    if kind in ("text", "parquet"):
        times = pl.from_epoch(times, "ms")
    if kind == "text":
        times, options = times.dt.strftime("%Y %m %d %T%.3f"), {"time_format": "%Y %m %d %T%.f"}
    frame = frame.with_columns(times)
    frame.write_parquet(file) if kind == "parquet" else frame.write_csv(file)
    made = prepare_run.prepare_from(
        "table", file, tmp_path / "made", filters=prepare.Filters(3, 1), reader_options=options
    )
    assert [made.item_source_ids[item] for item in made.sequence(1)] == ["a", "b", "c", "d"]
    assert made.timestamps_X.tolist() == [1_700_000_000, *[1_700_000_050] * 3] * 2
    assert made.manifest["ties"]["rows"] == 0
    assert made.manifest["ties"]["rule"] == "fractions of the second, then file order"
    assert made.within_second_X.tolist() == [0, 100_000, 800_000, 900_000] * 2
    (ties,) = [check for check in made.manifest["audit"] if check["check"] == "ties_in_time"]
    assert ties["status"] == "pass"
    assert ties["detail"].startswith("0.0% of test targets share a timestamp")


@pytest.mark.parametrize(
    ("unit", "times", "within"),
    [
        ("seconds", ["1700000000.000001", "1700000000.999999", "8"], [1, 999_999, 0]),
        ("milliseconds", ["1700000000001", "1700000000001.25", "8000"], [1000, 1250, 0]),
        ("microseconds", ["1700000000000001", "1700000000000999", "8000000"], [1, 999, 0]),
        ("seconds", ["1700000000", "1700000001.0", "8"], None),
        ("milliseconds", ["1700000000000", "1700000001000", "8000"], None),
    ],
)
def test_microseconds_within_the_second(tmp_path, unit, times, within):
    """A log whose times are all whole seconds has none."""
    file = tmp_path / "log.csv"
    file.write_text("user,item,timestamp\n" + "".join(f"u,a,{time}\n" for time in times))
    log = reading.read("table", file, tmp_path, time_unit=unit)
    assert ("within_second" in log.interactions.collect_schema()) == (within is not None)
    if within is not None:
        assert [row[0] for row in reading.rows(log, "within_second")] == within


def test_fractions_may_begin_in_a_later_block(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user,item,timestamp\nu,a,9\nu,b,10\nu,c,10.5\nu,d,11\n")
    (workspace := tmp_path / "work").mkdir()
    log = table.read(file, staging.ReadOptions(workspace, block_bytes=8))
    assert [row[0] for row in reading.rows(log, "within_second")] == [0, 0, 500_000, 0]


def test_between_tabs_a_quote_is_a_letter(tmp_path):
    file = tmp_path / "log.tsv"
    file.write_text('user\titem\tsummary\nu\ta\t"nice\nu\tb\t5" wide\nv\ta\tfine\n')
    log = reading.read("table", file, tmp_path)
    assert reading.rows(log, "item", "summary") == [("a", '"nice'), ("b", '5" wide'), ("a", "fine")]


@pytest.mark.parametrize(
    ("text", "line", "as_quoted", "as_letters"),
    [
        ('user\titem\nu\ta\nu\t"b, c"\n', 3, "b, c", '"b, c"'),
        ('user\titem\nu\ta\nu\t"b ""c"""\n', 3, 'b "c"', '"b ""c"""'),
        ('"user"\titem\nu\ta\n', 1, "a", None),
    ],
)
def test_between_tabs_quotes_around_a_field_need_a_word(
    tmp_path, text, line, as_quoted, as_letters
):
    file = tmp_path / "log.tsv"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"log\.tsv:{line}: .*Pass --quoted .* --no-quoted"):
        reading.read("table", file, tmp_path)
    log = reading.read("table", file, tmp_path, quoted=True)
    assert reading.rows(log, "item")[-1] == (as_quoted,)
    if as_letters is not None:
        log = reading.read("table", file, tmp_path, quoted=False)
        assert reading.rows(log, "item")[-1] == (as_letters,)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("who,what\nu,a\n", {}, r":1: has the columns who, what; wanted user and item"),
        ("user,item\nu,a\n", {"columns": "user=user,item=sku"}, r"wanted sku\. Name them"),
        ("user,item\nu,a\n", {"columns": "user=user"}, "no column is named for the item"),
        ("user,item\nu,a\n", {"columns": "x=user"}, "--columns has 'x=user'; wanted pairs"),
        ("user,item\nu,a\n", {"columns": {"x": "user"}}, r"'x=user'.*Python, columns={\"user\": "),
        ("u,a\n", {"columns": {"user": "u"}, "header": False}, 'in order: columns="user,item'),
        ("user,item,timestamp\nu,a,1e12\n", {}, r":2: impossible timestamp"),
        ("user,item,rating\nu,a,7\n", {"rating_range": (1.0, 5.0)}, r":2: impossible rating"),
        ("user,item\nu,a,b\n", {}, r":2: too many columns: got 'u,a,b'"),
        ("user,item\n", {}, "holds no usable interaction"),
        ('user,item\nu,a\nu,"' + "b\n" * 70_000, {}, r":3: .*a quote that is never closed"),
        ('user||item\n"u"||a\n', {"separator": "||"}, "wanted a separator of one character"),
    ],
)
def test_bad_tables(tmp_path, text, options, message):
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        reading.read("table", file, tmp_path, **options)


def test_bad_parquet(tmp_path):
    file = tmp_path / "log.parquet"
    file.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(UserError, match=r"log\.parquet: is not a whole Parquet file"):
        reading.read("table", file, tmp_path)
    pl.DataFrame({"user": ["u", None], "item": ["a", "b"]}).write_parquet(file)
    with pytest.raises(UserError, match=r"log\.parquet:2: missing user"):
        reading.read("table", file, tmp_path)
    pl.DataFrame({"user": ["u"], "item": [["a", "b"]]}).write_parquet(file)
    with pytest.raises(UserError, match=r"log\.parquet: its column item holds .*wanted one value"):
        reading.read("table", file, tmp_path)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([b"\xf0" * 16], pa.binary(16)),
        ([b"\xf0" * 16], getattr(pa, "uuid", lambda: pa.binary(16))()),  # since pyarrow 18
        ([b"\xf0", b"a"], pa.binary()),
        ([1], pa.duration("s")),
        ([7], pa.decimal256(50, 0)),
    ],
    ids=str,
)
def test_parquet_ids_that_are_no_text(tmp_path, values, kind):
    file = tmp_path / "log.parquet"
    column = pa.array(values, kind)
    pq.write_table(pa.table({"user": column, "item": column}), file)
    with pytest.raises(UserError, match=r"log\.parquet: its column user holds .*Export it as text"):
        reading.read("table", file, tmp_path, skip_bad_rows=True)


def test_parquet_ids_in_the_log_and_the_table_of_items(tmp_path):
    """Decimals, as databases write whole numbers, and texts that are marked as bytes."""
    file, items = tmp_path / "log.parquet", tmp_path / "items.parquet"
    for kind, values, ids in (
        (pa.decimal128(20, 8), ["0", "7.5"], ["0.00000000", "7.50000000"]),
        (pa.decimal128(20, 0), ["0", "-7"], ["0", "-7"]),
        (pa.binary(), [b"a", "\u00e9".encode()], ["a", "\u00e9"]),
    ):
        column = pa.array(values).cast(kind)
        pq.write_table(pa.table({"user": column, "item": column}), file)
        pq.write_table(pa.table({"item": column, "title": ["one", "two"]}), items)
        log = reading.read("table", file, tmp_path, items=items)
        assert [item for (item,) in reading.rows(log, "item")] == ids
        assert log.items["item"].to_list() == ids


def test_json_lines_without_a_rating(tmp_path):
    """A line may lack it; where all do, the key is another."""
    file = tmp_path / "log.jsonl"
    file.write_text(
        '{"user": 1, "item": 2, "rating": null}\n'
        '{"user": 1, "item": 3, "rating": 4}\n{"user": 1, "item": 4}\n'
    )
    log = reading.read("table", file, tmp_path)
    assert reading.rows(log, "item", "rating") == [("2", None), ("3", 4.0), ("4", None)]
    with pytest.raises(UserError, match=r"log\.jsonl: no line has a rating under 'stars'; wanted"):
        reading.read("table", file, tmp_path, columns="user=user,item=item,rating=stars")


def test_prepared_from_json_lines(tmp_path):
    file = tmp_path / "log.jsonl"
    file.write_text(
        "".join(f'{{"user": 1, "item": "i{n}", "timestamp": {9 - n}}}\n' for n in range(3))
    )
    made = prepare_run.prepare_from("table", file, tmp_path / "out", filters=prepare.Filters(1, 1))
    assert [made.item_source_ids[item] for item in made.sequence(0)] == ["i2", "i1", "i0"]


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("user,item,time,item\nu,a,1,b\n", {}),
        ("who,what,what\nu,a,b\n", {"columns": "user=who,item=what"}),
        ("u,a,b\n", {"columns": "user,item,item", "header": False}),
    ],
)
def test_two_columns_of_one_name(tmp_path, text, options):
    file = tmp_path / "log.csv"
    file.write_text(text)
    with pytest.raises(UserError, match=r"has 2 columns named '(item|what)'; wanted one"):
        reading.read("table", file, tmp_path, **options)


def test_columns_that_nobody_reads_may_share_a_name(tmp_path):
    file = tmp_path / "log.csv"
    file.write_text("user,item,note,note\nu,a,x,y\n")
    assert reading.rows(reading.read("table", file, tmp_path), "user", "item") == [("u", "a")]


def test_two_columns_of_one_name_in_a_table_of_items(tmp_path):
    file, items = tmp_path / "log.csv", tmp_path / "items.tsv"
    file.write_text("user,item\nu,a\n")
    items.write_text("item\ttitle\ttitle\na\tone\ttwo\n")
    with pytest.raises(UserError, match="has 2 columns named 'title'"):
        reading.read("table", file, tmp_path, items=items)
