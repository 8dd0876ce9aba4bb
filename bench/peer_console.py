"""What the person at the terminal sees: a bar that is drawn again and again, or elsewhere one line a step."""
import subprocess
import sys
import time

BAR_WIDTH = 24
POLL_S = 0.2


class Failed(Exception):
    """Said in one line; nobody needs a traceback."""


class Progress:
    """Counts steps that take seconds to minutes. All goes to stderr: stdout is for the table."""

    def __init__(self, stream=sys.stderr):
        self.stream, self.live = stream, stream.isatty()
        self.done, self.total, self.text, self.begun = 0, 0, "", time.monotonic()

    def begin(self, text):
        self.text, self.begun = text, time.monotonic()
        self.draw()

    def draw(self):
        if not self.live:
            return
        filled = BAR_WIDTH * self.done // max(self.total, 1)
        bar = "#" * filled + "." * (BAR_WIDTH - filled)
        seconds = time.monotonic() - self.begun
        self.stream.write(f"\r\033[K[{bar}] {self.done}/{self.total}  {self.text}, {seconds:.0f} s")
        self.stream.flush()

    def end(self, told=""):
        self.done += 1
        if self.live:
            self.stream.write("\r\033[K")
        seconds = time.monotonic() - self.begun
        self.stream.write(f"{self.done}/{self.total}  {self.text}, {seconds:.1f} s{told and ': ' + told}\n")
        self.stream.flush()

    def clear(self):
        if self.live:
            self.stream.write("\r\033[K")
            self.stream.flush()


def wait(process, progress):
    """Until it ends, the bar's clock running; -> exit status"""
    while True:
        try:
            return process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            progress.draw()


def run(command, log, progress, cwd=None, env=None):
    """A command whose output nobody wants to see unless it fails; -> exit status"""
    with open(log, "a", encoding="utf-8") as out:
        print("$", *command, file=out, flush=True)
        process = subprocess.Popen([str(c) for c in command], cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=out,
                                   stderr=subprocess.STDOUT)
        try:
            return wait(process, progress)
        finally:
            process.kill()
            process.wait()
