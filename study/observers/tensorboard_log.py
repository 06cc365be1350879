"""Finished trials as TensorBoard's event files (extra `tensorboard`): a folder per trial. No torch, no TensorFlow."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from study.errors import DependencyError
from study.observers.base import Observer
from study.observers.record import TrialRecord
from study.store import TrialTables

__all__ = ["TensorBoardLog"]


class TensorBoardLog(Observer):
    """Writes each trial when it has finished: ``FOLDER/METHOD-KEY/``. A trial that ran again replaces its folder.

    Args:
        folder: TensorBoard's log folder; made when the first trial has finished.

    Raises:
        DependencyError: the package is missing.
    """

    name = "TensorBoard"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            import tensorboard.compat.proto.event_pb2
            import tensorboard.compat.proto.summary_pb2
            import tensorboard.plugins.hparams.metadata
            import tensorboard.summary.writer.record_writer  # noqa: F401
        except ImportError as error:
            raise DependencyError(
                f"--log tensorboard needs a package that is not here ({error.name or error})",
                fix="pip install 'study[tensorboard]', in a checkout: pip install -e '.[tensorboard]'",
            ) from None

    def trial_finished(self, tables: TrialTables) -> None:
        """Write a trial's folder: under another name first, so that a folder is whole."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = TrialRecord.of(tables)
        final = self.folder / f"{record.method}-{record.key}"
        unfinished = self.folder / f".{final.name}.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        # TensorBoard knows an event file by its name.
        with (unfinished / f"events.out.tfevents.{int(record.began_s)}.{socket.gethostname()}").open("wb") as file:
            writer = RecordWriter(file)
            for event in _events(record):
                writer.write(event.SerializeToString())
        shutil.rmtree(final, ignore_errors=True)
        unfinished.rename(final)


def _events(record: TrialRecord) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

    def session(tag: str, **content: Any) -> Any:
        """What TensorBoard's page HParams reads."""
        data = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**content))
        described = SummaryMetadata.FromString(data.SerializeToString())
        return Summary(value=[Summary.Value(tag=tag, metadata=described, tensor=metadata.NULL_TENSOR)])

    started = plugin_data_pb2.SessionStartInfo(start_time_secs=record.began_s, group_name=record.key)
    for path, text in record.settings_as_text().items():
        value = record.settings[path]
        if isinstance(value, bool):
            started.hparams[path].bool_value = value
        elif isinstance(value, int | float):
            started.hparams[path].number_value = value
        else:
            started.hparams[path].string_value = text
    started.hparams["seed"].number_value = record.seed
    yield Event(wall_time=record.began_s, file_version="brain.Event:2")
    yield Event(wall_time=record.began_s, summary=session(metadata.SESSION_START_INFO_TAG, session_start_info=started))
    for epoch in record.epochs:
        scalars = [Summary.Value(tag=f"epoch/{name}", simple_value=value) for name, value in epoch.values.items()]
        yield Event(wall_time=epoch.time_s, step=epoch.epoch, summary=Summary(value=scalars))
    final = [Summary.Value(tag=name, simple_value=value) for name, value in record.metrics.items()]
    yield Event(
        wall_time=record.ended_s, step=record.epochs[-1].epoch if record.epochs else 0, summary=Summary(value=final)
    )
    status = api_pb2.STATUS_SUCCESS if record.state == "done" else api_pb2.STATUS_FAILURE
    ended = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=record.ended_s)
    yield Event(wall_time=record.ended_s, summary=session(metadata.SESSION_END_INFO_TAG, session_end_info=ended))
