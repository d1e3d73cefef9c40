"""The model registry: MLflow in the data folder, one registered model per use case.

Comes in: names of use cases and versions. Goes out: model cards, artifacts and aliases.
Never: promotes or loads a model; the stages do.
"""

from typing import TYPE_CHECKING

from punctual.lazy import exports_of

if TYPE_CHECKING:
    from stores.models.paths import artifact_folder as artifact_folder
    from stores.models.paths import artifact_location as artifact_location
    from stores.models.pins import cards_in_use as cards_in_use
    from stores.models.pins import earlier_views as earlier_views
    from stores.models.pins import refuse_changes as refuse_changes
    from stores.models.registry import aliases as aliases
    from stores.models.registry import artifact as artifact
    from stores.models.registry import read_card as read_card
    from stores.models.registry import registered_version as registered_version
    from stores.models.registry import registered_versions as registered_versions
    from stores.models.tracking import model_registry as model_registry

__getattr__ = exports_of(__name__)
