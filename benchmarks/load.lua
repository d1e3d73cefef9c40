-- The closed loop of load.py for wrk: sends the bodies of a file in turn; its last line is JSON.
local requests, number = {}, 0

function init(arguments)
  wrk.headers["Content-Type"] = "application/json"
  for body in io.lines(arguments[2]) do
    requests[#requests + 1] = wrk.format("POST", arguments[1], nil, body)
  end
end

function request()
  number = number % #requests + 1
  return requests[number]
end

function done(summary, latency)
  local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout
  io.write(string.format(
    '{"answers": %d, "failed": %d, "seconds": %.6f, "p50_ms": %.6f, "p99_ms": %.6f, "p999_ms": %.6f}\n',
    summary.requests - summary.errors.status, failed, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
