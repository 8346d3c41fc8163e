from pathlib import Path

import yaml

from schemas.definitions import Definitions


def read_definitions(path: Path) -> Definitions:
    return Definitions.model_validate(yaml.safe_load(path.read_text()))
