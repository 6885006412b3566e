-- What `wrk` sends and what it says at the end. Settings come from the environment: BENCH_BODY_BYTES (POST a body of so
-- many bytes; 0: GET) and BENCH_FUNCTIONS (call /functions/f0 to f<n-1> in turn; 0: the URL as it is).
local bytes = tonumber(os.getenv("BENCH_BODY_BYTES") or "0")
local functions = tonumber(os.getenv("BENCH_FUNCTIONS") or "0")

if bytes > 0 then
  wrk.method = "POST"
  wrk.body = string.rep("x", bytes)
  wrk.headers["Content-Type"] = "text/plain"
end

if functions > 0 then
  local requests, turn = {}, -1
  function init()
    for index = 0, functions - 1 do
      requests[index] = wrk.format(nil, "/functions/f" .. index)
    end
  end
  function request()
    turn = (turn + 1) % functions
    return requests[turn]
  end
end

function done(summary, latency)
  local wrong = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format('{"seconds": %.6f, "requests": %d, "broken": %d, "not_2xx": %d, "us": {',
    summary.duration / 1e6, summary.requests, wrong, summary.errors.status))
  for _, percent in ipairs({1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9}) do
    io.write(string.format('"%g": %d, ', percent, latency:percentile(percent)))
  end
  io.write(string.format('"100": %d}}\n', latency.max))
end
