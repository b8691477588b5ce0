"""The key of dimension letters has every letter that the package uses."""

import ast
import collections
import pathlib
import re

from genrec_jax import shapes

PACKAGE = pathlib.Path(shapes.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
FIRST, _, SECOND = (shapes.__doc__ or "").partition("Second meanings:")
KEY = set(re.findall(r"^\| (\w) \|", FIRST, re.MULTILINE))
SUFFIX = re.compile(r"_?[a-z][a-z0-9]*(?:_[a-z0-9]+)*_((?:[A-Zqs]+[0-9]*)+)")
JAXTYPES = re.compile(r"(?:Bool|Float|Int|Num|Shaped|UInt)\d*")


def letters_of(source: str) -> set[str]:
    """The one-letter dimensions in suffixes of names and in jaxtyping annotations of a source text."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        name = {ast.Name: "id", ast.arg: "arg", ast.Attribute: "attr"}.get(type(node))
        if name and (match := SUFFIX.fullmatch(getattr(node, name))):
            found.update(re.findall("[A-Za-z]", match[1]))
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
            last = node.slice.elts[-1]
            if JAXTYPES.fullmatch(ast.unparse(node.value)) and isinstance(last, ast.Constant):
                words = re.findall("[A-Za-z]+", str(last.value))
                found.update(word for word in words if len(word) == 1)
    return found


def test_the_check_sees_letters():
    assert letters_of("def f(x_BL: Int[Array, 'B L+1'], n: int): return bias_HqS") == set("BLHqS")
    assert letters_of("x: Float[np.ndarray, ' rows D'] = d['key_B']") == set("D")


def test_every_letter_is_in_the_key():
    users = collections.defaultdict(list)
    for path in SOURCES:
        for letter in letters_of(path.read_text()) - KEY:
            users[letter].append(str(path.relative_to(PACKAGE)))
    assert dict(users) == {}


def test_second_meanings_are_of_letters_that_are_used_there():
    rows = re.findall(r"^\| (\w) \| ([\w/., ]+) \|", SECOND, re.MULTILINE)
    assert rows
    for letter, places in rows:
        assert letter in KEY
        for place in places.split(", "):
            path = PACKAGE / place
            files = [path] if path.is_file() else sorted(path.rglob("*.py"))
            assert any(letter in letters_of(file.read_text()) for file in files), (letter, place)
