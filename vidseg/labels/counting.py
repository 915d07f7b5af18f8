"""Singular and plural forms in messages."""

__all__ = ["counted"]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in singular or plural: "1 video", "2 videos".

    Args:
        number: count, at least 0.
        noun: singular form.
        plural: plural form; default: `noun` with an "s".
    """
    return f"{number} {noun if number == 1 else plural or f'{noun}s'}"
