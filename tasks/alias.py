"""The alias of MLflow that says what is served, and what a version remembers of having been moved to and from.

MLflow cannot compare and swap: who sets the alias looks at it first, and keeps others of this machine away
(tasks/promotion.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.store import tracking_errors
from tasks.versions import CHAMPION

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient


class Alias:
    """The champion's alias of one registered model.

    Args:
        client: MLflow's client.
        model: The registered model.
    """

    def __init__(self, client: MlflowClient, model: str) -> None:
        self._client, self._model = client, model

    def number(self) -> int:
        """Number of the version with the alias, 0 where no version has it. Raises InfrastructureError."""
        from mlflow.exceptions import MlflowException

        with tracking_errors():
            try:
                return int(self._client.get_model_version_by_alias(self._model, CHAMPION).version)
            except MlflowException as error:
                if error.error_code in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                    return 0
                raise

    def set(self, number: int) -> None:
        """Give it to a version, or for 0 take it away. Raises InfrastructureError."""
        with tracking_errors():
            if number:
                self._client.set_registered_model_alias(self._model, CHAMPION, str(number))
            else:
                self._client.delete_registered_model_alias(self._model, CHAMPION)

    def note(self, new: int, old: int, *, how: str, at: str) -> None:
        """Leave on both versions what happened to them.

        Args:
            new: The version that has the alias now.
            old: The one that had it, 0 for none.
            how: What moved it.
            at: When, in UTC.

        Raises:
            InfrastructureError: MLflow cannot be reached.
        """
        told = {new: {"jpu.promoted_at": at, "jpu.promoted_by": how}}
        if old not in (0, new):
            told[new]["jpu.replaces"] = str(old)
            told[old] = {"jpu.replaced_by": str(new), "jpu.replaced_at": at}
        with tracking_errors():
            for number, tags in told.items():
                for key, value in tags.items():
                    self._client.set_model_version_tag(self._model, str(number), key, value)
