"""What is installed here."""

from importlib.metadata import distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed_by(requirements):
    """Return all distributions that requirements need here, by name."""
    found, todo, seen = {}, [Requirement(line) for line in requirements], set()
    while todo:
        wanted = todo.pop()
        name = canonicalize_name(wanted.name)
        if (key := (name, frozenset(wanted.extras))) in seen:
            continue
        seen.add(key)
        found[name] = distribution(name)
        for need in map(Requirement, found[name].requires or []):
            extras = ("", *wanted.extras)
            if not need.marker or any(
                need.marker.evaluate({"extra": e}) for e in extras
            ):
                todo.append(need)
    return found
