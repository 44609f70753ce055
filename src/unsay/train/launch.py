"""Start a group of training processes through accelerate's launcher, and wait for it.

Three kinds of process: the one that calls `run`; the launcher below it, which is this module as a program; and below
that the group, each running the module that was named. They speak JSON lines on the caller's pipe, and end when their
standard input does: whoever is killed takes the group along.

    run("unsay.methods._training", job, processes, progress)  # -> raises TrainingError if any of them fails
    with member() as report: report({"event": "progress", …}) # in the named module; standard output goes to the log
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from unsay import cores
from unsay.errors import ProcessLostError, TrainingError, UnsayError
from unsay.redaction import redact, redact_output
from unsay.store import write
from unsay.train.group import StartAgainError

Event = dict[str, Any]

_LONGEST = 900  # characters of an error: a pipe takes 4096 bytes in one piece, whoever else writes
_PATIENCE = 20.0  # seconds for the launcher to end its processes before it is killed


def run(module: str, job: Mapping[str, Any], processes: Mapping[str, Any], progress: Callable[[Event], None]) -> None:
    """Run `module` in `processes` (an accelerate config) at once, each with the path of `job` as JSON; wait for all.

    `progress` gets the events of the first one. Where one raises StartAgainError, all begin again with its `memory` in
    the job. Raise TrainingError with the first failure where any of them fails.
    """
    with tempfile.TemporaryDirectory(prefix="unsay-") as name:
        config, file = Path(name) / "accelerate.json", Path(name) / "job.json"
        write.write_json(config, processes)
        memory: Mapping[str, Any] | None = {}
        while memory is not None:
            write.write_json(file, {**job, "memory": memory})
            memory = _run_once([module, str(file)], config, processes["num_processes"], progress)


def _run_once(
    command: list[str], config: Path, count: int, progress: Callable[[Event], None]
) -> Mapping[str, Any] | None:
    """Return the memory to begin again with; None when all is done."""
    threads = str(cores.share(count))
    launcher = subprocess.Popen(
        [sys.executable, "-m", "unsay.train.launch", str(config), *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, cores.OMP_NUM_THREADS: threads},
    )
    assert launcher.stdout is not None
    errors: list[Event] = []
    memory: Mapping[str, Any] | None = None
    # When the launcher itself is killed, its group must not go on alone.
    threading.Thread(target=_close_when_ended, args=[launcher], daemon=True).start()
    try:
        for line in launcher.stdout:
            event = _event(line)
            if event["event"] == "progress":
                progress(event)
            elif event["event"] == "memory":
                memory = memory or event["memory"]
            else:
                errors.append(event)
    finally:
        _end(launcher)
    if memory is not None or launcher.returncode == 0:
        return memory
    raise _why(errors, count, launcher.returncode)


def _close_when_ended(launcher: subprocess.Popen[bytes]) -> None:
    launcher.wait()
    assert launcher.stdin is not None
    launcher.stdin.close()


def _event(line: bytes) -> Event:
    try:
        value = json.loads(line)
        if isinstance(value, dict) and "event" in value:
            return value
    except ValueError:
        pass
    return {"event": "text", "text": line.decode(errors="replace").strip()}


def _end(launcher: subprocess.Popen[bytes]) -> None:
    if launcher.poll() is None:
        launcher.terminate()
    try:
        launcher.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        launcher.kill()
        launcher.wait()
    assert launcher.stdout is not None
    launcher.stdout.close()


def _why(errors: list[Event], count: int, code: int) -> TrainingError:
    """Return the cause of a failure: one process that dies makes the others fail too, with errors of their own."""
    said = [event for event in errors if event["event"] == "error"]
    lost = [event for event in errors if event["event"] == "lost"]
    killed = [event for event in lost if event["exitcode"] < 0 and -event["exitcode"] != signal.SIGTERM]
    for event in said:
        if event["ours"]:
            return TrainingError(str(event["text"]))
    for event in killed:
        return ProcessLostError(
            f"expected {count} training processes to end, got process {event['process']} killed by "
            f"{signal.Signals(-event['exitcode']).name}, as happens where the machine's memory runs out; "
            "run the same command again to go on from the newest checkpoint"
        )
    for event in said:
        return TrainingError(f"training process {event['process']}: {event['text']}")
    ended = f"process {lost[0]['process']} with exit code {lost[0]['exitcode']}" if lost else f"exit code {code}"
    return TrainingError(f"expected {count} training processes to end well, got {ended}; the log says more")


# -- in a process of the group ----------------------------------------------------------------------------------------


@contextmanager
def member() -> Iterator[Callable[[Event], None]]:
    """Be one of the group: give a way to report, and end the process if anything is raised inside.

    It ends at once and with everything that waits for other processes: those are ended by the launcher.
    """
    pipe = os.dup(1)
    os.dup2(2, 1)
    redact_output()
    rank = int(os.environ["RANK"])

    def report(event: Event) -> None:
        with suppress(BrokenPipeError):
            os.write(pipe, json.dumps(event, ensure_ascii=False).encode() + b"\n")

    def stop_with_caller() -> None:
        while os.read(0, 1):
            pass
        os._exit(1)

    threading.Thread(target=stop_with_caller, daemon=True).start()
    try:
        yield report
    except StartAgainError as error:
        report({"event": "memory", "memory": error.memory})
    except BaseException as error:
        traceback.print_exc()
        ours = isinstance(error, UnsayError)
        text = redact(str(error) if ours else f"{type(error).__name__}: {error}")
        report({"event": "error", "process": rank, "ours": ours, "text": text[:_LONGEST]})
    else:
        return
    sys.stderr.flush()
    os._exit(1)


# -- the launcher -----------------------------------------------------------------------------------------------------


def main() -> int:
    """Hand the config and the module to accelerate; say which process failed, if one did."""
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    config, module, job = sys.argv[1:]
    # Port 0 is a free one: two trainings on a machine do not meet.
    port = [] if "main_process_port" in json.loads(Path(config).read_text(encoding="utf-8")) else ["0"]
    options = [*(f"--main_process_port={each}" for each in port), "--monitor_interval=0.2", "--max_restarts=0"]
    arguments = launch_command_parser().parse_args(["--config_file", config, *options, "--module", module, job])
    try:
        launch_command(arguments)
    except ChildFailedError as error:
        for rank, failure in sorted(error.failures.items(), key=lambda item: item[1].timestamp):
            print(json.dumps({"event": "lost", "process": rank, "exitcode": failure.exitcode}), flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
