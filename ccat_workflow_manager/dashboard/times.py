"""Times, durations, sizes and numbers as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_SIZES = ("B", "KB", "MB", "GB", "TB", "PB", "EB")


def parse(text: str | datetime | None) -> datetime | None:
    """A time of the API (RFC 3339) as a datetime in UTC."""
    if text is None or isinstance(text, datetime):
        return text
    return datetime.fromisoformat(text).astimezone(UTC)


def now() -> datetime:
    return datetime.now(UTC)


def seconds_between(first: str | datetime | None, last: str | datetime | None) -> float | None:
    """The time from `first` to `last`; None if one of them is unknown."""
    start, end = parse(first), parse(last)
    return None if start is None or end is None else max(0.0, (end - start).total_seconds())


def since(moment: str | datetime | None) -> float | None:
    """How long ago this was, in seconds."""
    return seconds_between(moment, now())


def duration(seconds: float | None) -> str:
    """For example `41 s`, `6 min 49 s`, `1 h 24 min`, `6 d`."""
    if seconds is None:
        return ""
    if 0 < seconds < 0.05:
        return "<0.1 s"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 s", " s")
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} min"
    days, hours = whole // 86_400, whole % 86_400 // 3600
    return f"{days} d {hours} h" if days < 3 and hours else f"{days} d"


def age(seconds: float | None) -> str:
    """A duration with one unit, or hours and minutes: `41 s`, `13 min`, `1 h 52 min`."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if whole or not seconds else "<1 s"
    return f"{whole // 60} min" if whole < 3600 else duration(whole)


def clock(moment: str | datetime | None) -> str:
    """The time of day if it is today, else the day too."""
    at = parse(moment)
    if at is None:
        return ""
    today = now()
    if at.date() == today.date():
        return f"{at:%H:%M:%S}"
    return f"{at:%d %b %H:%M}" if at.year == today.year else f"{at:%d %b %Y}"


def exact(moment: str | datetime | None) -> str:
    """The whole time, for tooltips."""
    at = parse(moment)
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S} UTC"


def iso(moment: str | datetime | None) -> str:
    """The time for the attribute `datetime`."""
    at = parse(moment)
    return "" if at is None else at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def number(value: float | None) -> str:
    """With commas: `24,301`; of a fraction the first digits."""
    if value is None:
        return ""
    if value == int(value):
        return f"{int(value):,}"
    if abs(value) < 10:
        return f"{value:.2g}" if abs(value) >= 0.001 else "<0.001"
    return f"{value:,.1f}".removesuffix(".0")


def size(value: float | None) -> str:
    """Bytes in decimal units: `188 KB`."""
    if value is None:
        return ""
    amount, unit = float(value), 0
    while amount >= 999.5 and unit < len(_SIZES) - 1:
        amount, unit = amount / 1000, unit + 1
    return f"{int(amount)} B" if unit == 0 else f"{amount:.3g} {_SIZES[unit]}"


def percent(part: float, whole: float) -> str:
    """`95.1 %`; nothing of nothing is an empty text."""
    return f"{100 * part / whole:.1f} %" if whole else ""


def short_id(full: object) -> str:
    """The last 12 characters of an id, as narrow terminals show it: ids of one request begin alike with their time."""
    return str(full)[-12:]


def in_days(days: int) -> str:
    """The time in so many days, as the API takes it."""
    return (now() + timedelta(days=days)).isoformat()
