"""The server as a process: killed, stopped, and started on a taken port."""

import re
import signal
import socket
import subprocess
import sys
import threading
import time

import requests

from inference.__main__ import main
from punctual.home import Home
from stores.predictions.log import read_log


def where(process):
    """Waits for the address that a starting server prints when it is ready."""
    for line in process.stdout:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            url = found[0]
            break
    else:
        raise AssertionError(process.stderr.read())
    for _ in range(600):
        try:
            if requests.get(f"{url}/readyz", timeout=5).status_code == 200:
                return url
        except requests.ConnectionError:
            pass
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
    raise AssertionError("it never became ready")


def test_killing_the_server_loses_no_answered_prediction(punctual, row):
    server = punctual("serve", "parcel_lateness", "--port", "0")
    url = where(server)
    answered = []

    def ask():
        while True:
            try:
                response = requests.post(f"{url}/predict", json={"rows": [row()] * 7}, timeout=10)
                answered.extend(each["prediction_id"] for each in response.json()["predictions"])
            except (requests.RequestException, ValueError):
                return

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while len(answered) < 500:
        time.sleep(0.01)
    server.send_signal(signal.SIGKILL)
    for thread in threads:
        thread.join()

    logged = {each.prediction_id for each in read_log(Home.at(), "parcel_lateness")}
    assert len(answered) == len(set(answered)) >= 500
    assert set(answered) <= logged


def test_a_server_answers_the_command_line_and_stops_cleanly_on_request(
    home, punctual, row, capsys
):
    server = punctual("serve", "--port", "0", "--speed", "60")
    url = where(server)

    keys = ["courier=A", "depot=", "route=2", "weight_grams=900", "promised=2024-02-21T08:00Z"]
    code = main(["predict", "parcel_delay", "--url", url, *(f"--key={key}" for key in keys)])
    shown = capsys.readouterr()
    refused = main(["predict", "parcel_delay", "--url", url, "--row", '{"courier": 5}'])
    refusal = capsys.readouterr()
    server.send_signal(signal.SIGTERM)
    _, errors = server.communicate(timeout=20)

    assert (code, shown.err) == (0, "")
    assert shown.out.lstrip().startswith("parcel_delay, version 1, at 2024-02-20T12:")
    assert refused == 2
    assert (
        "InvalidRequest: " in refusal.err
        and "rows[0].courier is 5; expected a valid string" in refusal.err
    )
    assert (server.returncode, errors) == (0, "")
    assert len(list(read_log(Home.at(), "parcel_delay"))) == 1
    # The data folder's clock ran sixty times as fast as the wall clock.
    assert int((home / "clock").read_text()) > 1_708_430_400_000_000 + 5_000_000


def test_a_taken_port_is_reported_before_heavy_imports_and_without_a_traceback(home):
    program = (
        "import sys; from inference.__main__ import main; code = main(['serve', '--port',"
        " sys.argv[1]]);"
        "print([name for name in ('feast', 'mlflow', 'fastapi', 'pandas', 'duckdb') if name in"
        " sys.modules]); sys.exit(code)"
    )
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        done = subprocess.run(
            [sys.executable, "-c", program, port],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    assert done.returncode == 2
    assert (
        done.stderr
        == f"PortInUse: another program listens at 127.0.0.1:{port}. Stop it or choose another"
        " --port.\n"
    )
    assert done.stdout == "[]\n"


def test_a_host_that_is_not_this_machine_is_reported(capsys):
    assert main(["serve", "--host", "192.0.2.1"]) == 2
    assert "AddressUnavailable: cannot listen at 192.0.2.1:8400" in capsys.readouterr().err


def test_a_url_without_a_server_is_reported_with_the_remedy(home, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

    assert (
        main(["predict", "parcel_delay", "--url", f"http://127.0.0.1:{port}", "--row", "{}"]) == 75
    )
    assert "Start one: punctual serve parcel_delay." in capsys.readouterr().err
