"""The site stands alone: a page that fetches a picture, style or script fails the build."""

import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError

_TAGS = re.compile(r"<(?:img|script|link|source|iframe|video|audio)\b[^>]*>", re.IGNORECASE)
_ADDRESS = re.compile(r"\b(?:src|srcset|href)\s*=\s*[\"']?(?:https?:)?//", re.IGNORECASE)
_STYLE = re.compile(r"(?:url\(\s*|@import\s+)[\"']?(?:https?:)?//", re.IGNORECASE)


def foreign_assets(site: Path) -> list[str]:
    """Return what the pages and styles in a folder would fetch from elsewhere, with their files."""
    found = []
    for path in sorted(site.rglob("*")):
        if path.suffix not in (".html", ".css"):
            continue
        text = path.read_text(encoding="utf-8")
        tags = [tag for tag in _TAGS.findall(text) if _ADDRESS.search(tag)]
        styles = [match.group() for match in _STYLE.finditer(text)]
        found += [f"{path.relative_to(site)}: {each}" for each in (*tags, *styles)]
    return found


def on_post_build(config: Any) -> None:
    """Check the site that has been built."""
    found = foreign_assets(Path(config.site_dir))
    if found:
        raise PluginError("Expected all assets inside the site, got\n" + "\n".join(found))
