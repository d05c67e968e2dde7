"""Curves of a run for TensorBoard, written as they come."""

import socket
import time
from io import FileIO
from pathlib import Path


class Curves:
    """A file of TensorBoard's with numbers by name and step.

    torch's SummaryWriter writes in a thread of its own: its errors, as of a full disk,
    come late, with that thread's traceback, and do not name the file.

    Args:
        folder: where the file is made; it may hold files of earlier sessions.
        since: the step from which on their numbers no longer count.

    Raises:
        OSError: it could not be written.
    """

    def __init__(self, folder: Path, *, since: int = 0) -> None:
        # TensorBoard takes a while to import: only runs that keep files pay.
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.event, self.summary = Event, Summary
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self.path = folder / name
        self.writer = RecordWriter(FileIO(self.path, "ab"))  # unbuffered
        self.write(file_version="brain.Event:2")
        if since:
            start = SessionLog(status=SessionLog.START)
            self.write(step=since, session_log=start)

    def add(self, name: str, value: float, step: int) -> None:
        """Write a number."""
        number = self.summary.Value(tag=name, simple_value=value)
        self.write(step=step, summary=self.summary(value=[number]))

    def write(self, **fields) -> None:
        event = self.event(wall_time=time.time(), **fields)
        try:
            self.writer.write(event.SerializeToString())
        except OSError as error:  # Python does not say which file
            raise OSError(f"cannot write {self.path}: {error}") from error

    def close(self) -> None:
        self.writer.close()
