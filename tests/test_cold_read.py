"""The stations of a cold read are those in the table of the page about the flow."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "explanation" / "flow.md"

TRACED_READ = '''
import http.server, json, os, sys, tempfile, threading
from functools import partial

LIBRARY, KIND = sys.argv[1:]
BORDERS = """Runtime.submit SampleFetcher.load DecodePool.run _read_range ObstoreClient.get decode_pt
    SampleFetcher._run_prepare encode Store.publish DecodePool._schedule_delivery DecodePool._deliver
    ReadAhead._deliver""".split()
MAIN_LOOPS = ["Runtime._main", "Runtime._run", "DecodePool._work"]
entered, on_stack, is_active = {}, set(), False

def station(code):
    return code.co_qualname, code.co_filename.removeprefix(LIBRARY)

def trace(frame, event, _):
    if not is_active or event != "call" or not frame.f_code.co_filename.startswith(LIBRARY):
        return
    entered.setdefault(station(frame.f_code))
    if frame.f_code.co_qualname in BORDERS:
        while frame:
            on_stack.add(station(frame.f_code))
            frame = frame.f_back

class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass

threading.setprofile(trace)
import torch
from streaming.adapter import StreamingDatasetAdapter

folder = tempfile.mkdtemp()
for number in range(3):
    torch.save({"x": torch.zeros(5000)}, f"{folder}/{number}.pt")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
threading.Thread(target=server.serve_forever, daemon=True).start()
root = folder if KIND == "local" else f"http://127.0.0.1:{server.server_port}/"
adapter = StreamingDatasetAdapter(root, cache_size_gb=0.1, prepare=lambda sample: sample)
adapter[0], adapter[1]  # what happens on first use is not part of a read
sys.setprofile(trace)
is_active = True
adapter[2]
is_active = False
print(json.dumps([each for each in entered if each in on_stack and each[0] not in MAIN_LOOPS]))
os._exit(sys.stdout.flush() or 0)
'''


@pytest.mark.parametrize(("kind", "column"), [("local", 0), ("http", 1)])
def test_a_cold_read_passes_the_stations_of_the_page(kind: str, column: int) -> None:
    """In their order, each in its file; the text has their number."""
    library = f"{REPOSITORY / 'streaming'}/"
    done = subprocess.run(
        [sys.executable, "-c", TRACED_READ, library, kind], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    page = PAGE.read_text()
    rows = re.findall(r"^\| (\d*) ?\| (\d*) ?\| \w+ \| `(.*?)` \| `(.*?)` \|", page, re.M)
    drawn = [[station, file] for *numbers, station, file in rows if numbers[column]]
    assert json.loads(done.stdout) == drawn
    assert [int(row[column]) for row in rows if row[column]] == list(range(1, len(drawn) + 1))
    files = len({file for _, file in drawn})
    assert f"{len(drawn)} stations in {files} files" in " ".join(page.split())
