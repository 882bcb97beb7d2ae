r"""Units of measurement behind a number: found, and compared where both are known.

A unit that one side leaves out is never held against it. Two units that are both known must be the same: nothing is
converted. A word that is not known (`\text{ dogs}`) says nothing.
"""

import re

_KNOWN = {
    "mm": "millimeter millimetre", "cm": "centimeter centimetre", "m": "meter metre", "km": "kilometer kilometre",
    "in": "inch", "ft": "foot feet", "yd": "yard", "mi": "mile", "acre": "", "ha": "hectare",
    "mg": "milligram", "g": "gram gm", "kg": "kilogram", "lb": "pound lbs", "oz": "ounce", "ton": "tonne",
    "ml": "milliliter millilitre", "l": "liter litre", "gal": "gallon", "cup": "", "pint": "", "quart": "qt",
    "s": "second sec", "min": "minute", "h": "hour hr", "day": "", "week": "", "month": "", "year": "yr",
    "dollar": "usd $ buck", "cent": "\u00a2", "euro": "eur", "rupee": "rs", "pence": "",
    "degree": "deg \u00b0", "radian": "rad", "am": "a.m", "pm": "p.m", "percent": "pct",
    "newton": "", "joule": "", "watt": "", "volt": "", "ohm": "", "hz": "hertz",
}  # fmt: skip
_NAMES = {alias: unit for unit, aliases in _KNOWN.items() for alias in (unit, *aliases.split())}
_RATES = {"mph": "mi/h", "kph": "km/h", "kmh": "km/h", "kmph": "km/h", "fps": "ft/s", "rpm": ""}
# Of the bare letters only these are units without \text around them: `5 cm`, but `4t` and `5m` are products.
_BARE = sorted(
    (name for name in (*_NAMES, *_RATES) if len(name) > 1 and name.isascii() and name.isalpha() and name != "am"),
    key=len,
    reverse=True,
)
_EXPONENT = r"(?:\^\{?([23])\}?)?"
_TEXT_UNIT = re.compile(rf"(?:(?:/|\\cdot)?\\text\{{([^{{}}]*)\}}{_EXPONENT})+\Z")
_BARE_UNIT = re.compile(
    rf"(?<=[0-9}})\s])((?:square |sq\.? |cubic |cu\.? )?(?:{'|'.join(_BARE)}|inches|feet)s?"
    rf"(?: per (?:{'|'.join(_BARE)}))?)"
    rf"{_EXPONENT}\Z"
)
_PARTS = re.compile(r"\s*(?:/|\bper\b|\ban?\b)\s*")
_SHAPED = re.compile(r"(square|sq\.?|cubic|cu\.?)\s+(.+)|(.+?)\s+(squared|cubed)")
_POWERS = {"s": "^2", "c": "^3"}


def split_unit(text: str) -> tuple[str, str]:  # noqa: PLR0911  one return per kind
    r"""Take the unit off the end (dollars: also off the front).

    Args:
        text: A tidied answer.

    Returns:
        What is left, and the unit's name: empty when there is none, `?` when it is not a known one.

    Example:
        >>> split_unit(r"15\text{cm}^2"), split_unit("4t"), split_unit(r"\$5"), split_unit(r"5\text{dogs}")
        (('15', 'cm^2'), ('4t', ''), ('5', 'dollar'), ('5', '?'))
    """
    if text.endswith("°"):
        return text[:-1].rstrip(), "degree"
    if text.startswith("\\$"):
        return split_unit(text[2:].strip())[0], "dollar"
    if text.startswith("-\\$"):
        return "-" + split_unit(text[3:].strip())[0], "dollar"
    if text.endswith("\\$"):
        return text[:-2].strip(), "dollar"
    if (found := _TEXT_UNIT.search(text)) is not None and found.start() > 0:
        rest = text[: found.start()].strip()
        unit = known_unit(re.sub(r"\\text|\\cdot|[{}]", "", found[0]))
        return (rest[:-1], f"°{unit}") if rest.endswith("°") else (rest, unit)
    if (found := _BARE_UNIT.search(text)) is not None and found.start() > 0:
        return text[: found.start()].strip(), known_unit(found[0].replace("{", "").replace("}", ""))
    return text, ""


def known_unit(wording: str) -> str:
    """Name a unit that is written out in whichever way, or `?`.

    Example:
        >>> known_unit("square centimetres"), known_unit("miles per hour"), known_unit("mph"), known_unit("dogs")
        ('cm^2', 'mi/h', 'mi/h', '?')
    """
    wording = " ".join(wording.casefold().split()).rstrip(".")
    if wording in _RATES:
        return _RATES[wording] or "?"
    if wording.replace(" ", "") in _NAMES:
        return _NAMES[wording.replace(" ", "")]
    parts = [_one_unit(part) for part in _PARTS.split(wording)]
    return "?" if "?" in parts else "/".join(parts)


def _one_unit(wording: str) -> str:
    name, _, power = wording.partition("^")
    power = f"^{power}" if power else ""
    if (shaped := _SHAPED.fullmatch(name)) is not None:
        name = shaped[2] or shaped[3]
        power = _POWERS[(shaped[1] or shaped[4])[0]]
    for candidate in (name, name.removesuffix("s"), name.removesuffix("es")):
        if candidate in _NAMES:
            return _NAMES[candidate] + power
    return "?"
