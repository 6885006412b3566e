-- What `wrk` sends and what it says at the end. BENCH_BODY_BYTES in the environment: POST a body of so many bytes; 0: GET.
local bytes = tonumber(os.getenv("BENCH_BODY_BYTES") or "0")

if bytes > 0 then
  wrk.method = "POST"
  wrk.body = string.rep("x", bytes)
  wrk.headers["Content-Type"] = "text/plain"
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
