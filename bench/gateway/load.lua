-- Cycles through the request bodies of a file (one JSON document per line), POSTs them to one path.
-- wrk ... -s load.lua URL -- BODIES PATH ; prints one line "RESULT {json}" when done.
local requests, at = {}, 0

function init(args)
  local path = args[2]
  local headers = { ["Content-Type"] = "application/json", ["User-Agent"] = "openai/2.8.0", ["Accept"] = "application/json" }
  for line in io.lines(args[1]) do
    requests[#requests + 1] = wrk.format("POST", path, headers, line)
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end

function done(summary, latency, _)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"duration_us":%d,"bytes":%d,"errors":%d,"p50_us":%.1f,"p99_us":%.1f,"mean_us":%.1f,"max_us":%.1f}\n',
    summary.requests, summary.duration, summary.bytes, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(99), latency.mean, latency.max))
end
