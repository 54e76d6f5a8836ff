-- wrk's part of the bench: every request is an allocation for an attachment of its own, made up as
-- in attachments.py. Arguments: host, path, tag (8 hexadecimal digits), and how many go together as
-- a batch (0: each by itself).

local threads = 0

function setup(thread)
  thread:set("id", threads)
  threads = threads + 1
end

function init(arguments)
  tag = arguments[3]
  batch = tonumber(arguments[4])
  number = id * 0x10000000
  head = "POST " .. arguments[2] .. " HTTP/1.1\r\nHost: " .. arguments[1]
    .. "\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
  body = '{"attachment":{"container":"' .. tag .. '%016x' .. string.rep("0", 40)
    .. '","ifname":"eth0"},"claim":"' .. tag .. '%024x","node":"node-%04d","pod":{"namespace":'
    .. '"tenant-%02d","name":"web-' .. tag .. '-%010x","uid":"' .. tag
    .. '-0000-4000-8000-%012x"}}'
end

function item()
  local n = number
  number = n + 1
  return string.format(body, n, n, n % 1000, n % 97, n, n)
end

function request()
  local text
  if batch == 0 then
    text = item()
  else
    local items = {}
    for i = 1, batch do items[i] = item() end
    text = '{"items":[' .. table.concat(items, ",") .. "]}"
  end
  return string.format(head, #text) .. text
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests":%d,"microseconds":%d,"refused":%d,"broken":%d,"median_us":%d,"p99_us":%d}\n',
    summary.requests, summary.duration, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
