"""The repository's address: it stands in _config.yml and is written from there."""

import re
import sys

import yaml


def slug_of(url):
    """Return OWNER/NAME of a GitHub address."""
    found = re.fullmatch(r"https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?", url)
    if not found:  # Colab opens nothing else
        sys.exit(f"{url!r} is not of the form https://github.com/OWNER/NAME")
    return found[1]


def addresses(root):
    """Return (OWNER/NAME in the texts, OWNER/NAME in _config.yml, branch)."""
    config = yaml.safe_load((root / "_config.yml").read_text(encoding="utf-8"))
    readme = (root / "README.md").read_text(encoding="utf-8")
    found = re.search(r"git clone .*?(https://github\.com/[^\s`]+)", readme)
    if not found:
        sys.exit("README.md has no command `git clone https://github.com/OWNER/NAME`")
    repository = config["repository"]
    return slug_of(found[1]), slug_of(repository["url"]), repository["branch"]


def readdress(text, old, new, branch):
    """Return a text with the addresses of `old` (OWNER/NAME) replaced by `new`'s."""
    (owner, name), (new_owner, new_name) = old.split("/"), new.split("/")
    hub, end = r"(github(?:\.com)?/)", r"(?![\w-])"
    pages = f"{new_owner.lower()}.github.io/{new_name}"
    for pattern, replacement in (
        (rf"{hub}{re.escape(old)}{end}", rf"\g<1>{new}"),
        (rf"({hub}{re.escape(new)}/(?:blob|tree|raw)/)[^/)\s]+", rf"\g<1>{branch}"),
        (rf"(?i){re.escape(owner)}\.github\.io/{re.escape(name)}{end}", pages),
        (rf"(git clone .*\s+cd ){re.escape(name)}{end}", rf"\g<1>{new_name}"),
    ):
        text = re.sub(pattern, replacement, text)
    return text
