-- For wrk, with one connection for each thread: a flood of requests, each
-- response of which is verified.  Its argument is a file of Lua that returns
-- the plan, see t/soak: keys, queries with the bodies expected, errors, what is
-- refused, a seed.
--
-- Says on standard output
--
--   = WHAT FIRST CAME LAST END COUNT   so many answers of a kind: when the first
--                                 of them was asked for and when it came, and
--                                 when the last one was and did.  Whether they
--                                 are right depends on what was wrong then
--   ! {...}                       an answer that is never right
--   # {...}                       at the end: the sums
--
-- One connection, and nothing pipelined: so a response belongs to the request
-- before it.  After a connection has ended, wrk asks for another request.

local ffi = require "ffi"

ffi.cdef [[
    typedef struct { long sec, nsec; } convotic_time;
    int clock_gettime(int clock, convotic_time *time);

    typedef struct {
        const char *next_in;  unsigned avail_in;  unsigned long total_in;
        char *next_out;       unsigned avail_out; unsigned long total_out;
        const char *msg;      void *state, *alloc, *free, *opaque;
        int type;             unsigned long adler, reserved;
    } convotic_zlib;
    const char *zlibVersion(void);
    int inflateInit2_(convotic_zlib *z, int bits, const char *version, int size);
    int inflate(convotic_zlib *z, int flush);
    int inflateEnd(convotic_zlib *z);
]]

local MONOTONIC  = 1
local DECK       = 5000         -- requests, after which they are the same again
local TELL       = 0.2          -- seconds from one time to the next
local SAID       = 10           -- violations that a thread tells
local TAGS       = 20000        -- entity tags that are remembered
local VERSIONS   = 6            -- bodies of a query that are remembered
local SHOWN      = 600          -- bytes of an answer
local GZIP       = 16 + 15      -- windowBits of zlib
local FINISH     = 4
local STREAM_END = 1
local UNPACKED   = 65536        -- bytes, the longest body has 24 KB
local HUNG       = 15           -- seconds without an answer

-- Of a thousand requests.  Those of the last row are the plan's refusals.

local SHARE = {
    { "steady", 720 }, { "changing", 120 }, { "limited", 30 },
    { "unknown", 50 }, { "refusal", 80 },
}

local threads = {}              -- of the state that sets them up

local time = ffi.new("convotic_time")
local plan, deck, asked, started, told
local at = 0
local fresh, broken = true, false
local bodies, tags, tagged, last_tag = {}, {}, 0, {}
local said = 0

-- wrk's first state asks for one request that is never sent.

local unsent = 0

-- What done() can read of a thread are globals that are numbers: wrk 4.1 does not
-- survive tables.

local SUMS = { "sent", "answers", "lost", "bodies", "unchanged", "refusals", "unpacked",
               "admitted" }
local CLASSES = { "wrong tenant", "false 401", "let in", "wrong tag", "misshaped",
                  "rate headers", "unexpected status", "hung" }

for _, name in ipairs(SUMS) do _G["sum_" .. name] = 0 end
for _, name in ipairs(CLASSES) do _G["bad_" .. name] = 0 end

local noted = {}


local function clock()
    ffi.C.clock_gettime(MONOTONIC, time)

    return tonumber(time.sec) + tonumber(time.nsec) / 1e9
end


local function quoted(text)
    local safe = text:gsub('[%c"\\\127-\255]', function (char)
        return string.format("\\u%04x", char:byte())
    end)

    return '"' .. safe .. '"'
end


local function tell(now)
    local lines = {}

    for what, it in pairs(noted) do
        lines[#lines + 1] = string.format("= %s %.6f %.6f %.6f %.6f %d\n", what,
                                          it.first, it.came, it.last, it.till, it.count)
    end

    io.stdout:write(table.concat(lines))
    io.stdout:flush()
    noted = {}
    told = now
end


local function note(what, from, now)
    local it = noted[what]

    if it then
        it.last, it.till, it.count = from, now, it.count + 1
    else
        noted[what] = { first = from, came = now, last = from, till = now, count = 1 }
    end
end


local function bad(class, text, one, status, headers, body)
    _G["bad_" .. class] = _G["bad_" .. class] + 1
    said = said + 1

    if said > SAID then
        return
    end

    local shown = {}

    for name, value in pairs(headers or {}) do
        shown[#shown + 1] = name .. ": " .. value
    end

    table.sort(shown)

    io.stdout:write(string.format(
        '! {"class":%s,"text":%s,"start":%.6f,"name":%s,"request":%s,"response":%s}\n',
        quoted(class), quoted(text), started, quoted(one.name or "-"),
        quoted(one.text:match("^[^\r]*") .. (broken and ", after a loss" or "")),
        quoted(string.format("%s\n%s\n\n%s", status or "-", table.concat(shown, "\n"),
                             (body or ""):sub(1, SHOWN)))))
    io.stdout:flush()
end


-- What is asked.

local function text_of(method, path, headers, body)
    return method .. " " .. path .. " HTTP/1.1\r\nHost: localhost\r\n" .. headers .. "\r\n"
           .. (body or "")
end


local function pick(list)
    return list[math.random(#list)]
end


local function with_key(key)
    local query = pick(plan.queries)
    local packed = math.random() < 0.1
    local one = {
        kind = key.kind, name = key.name, workspace = key.workspace, query = query,
        rate = key.rate, what = key.workspace .. " " .. query.name, packed = packed,
        conditional = math.random() < 0.1,
    }

    one.head = "X-API-Key: " .. key.key .. "\r\n"
        .. (packed and "Accept-Encoding: gzip\r\n" or "")
        .. (math.random() < 0.005 and "Connection: close\r\n" or "")
    one.text = text_of("GET", query.path, one.head)

    return one
end


local function drawn()
    local dice = math.random(1000)
    local kind

    for _, share in ipairs(SHARE) do
        kind = share[1]
        dice = dice - share[2]
        if dice <= 0 then break end
    end

    if kind == "refusal" then
        local one = pick(plan.refusals)

        return { kind = kind, status = one.status, body = one.body, behind = one.behind,
                 text = text_of(one.method, one.path, one.headers, one.tail) }
    end

    if kind == "unknown" then
        local key = string.format("cvtk_live_%032d", math.random(50))

        return { kind = kind, text = text_of("GET", pick(plan.queries).path,
                                             "X-API-Key: " .. key .. "\r\n") }
    end

    return with_key(pick(plan.keys[kind]))
end


-- How it is judged.

local function unpack_gzip(body)
    local zlib = ffi.load("libz.so.1")
    local z = ffi.new("convotic_zlib")
    local out = ffi.new("char[?]", UNPACKED)

    z.next_in, z.avail_in, z.next_out, z.avail_out = body, #body, out, UNPACKED

    zlib.inflateInit2_(z, GZIP, zlib.zlibVersion(), ffi.sizeof(z))
    local rc = zlib.inflate(z, FINISH)
    local length = UNPACKED - z.avail_out
    zlib.inflateEnd(z)

    sum_unpacked = sum_unpacked + 1

    return rc == STREAM_END and ffi.string(out, length) or nil
end


-- The version of a body that is this workspace's and this query's; or what it is
-- instead.

local function version_of(one, body, coding)
    local known = bodies[one.what]

    if not known or known.count > VERSIONS then
        known = { count = 0, of = {} }
        bodies[one.what] = known
    end

    if known.of[body] then
        return known.of[body]
    end

    local plain = coding and unpack_gzip(body) or body
    local workspace, version = plain:match('"name":"(%S+) v(%d+) no%. ')

    if not workspace then
        return nil, "misshaped", "not a body of the upstream's"
    end

    if workspace ~= one.workspace then
        return nil, "wrong tenant", "the body of " .. workspace .. " for " .. one.workspace
    end

    local wanted = one.query.body:gsub("@W@", workspace):gsub("@V@", version)

    if plain ~= wanted then
        return nil, "misshaped", "not the body of this query"
    end

    known.of[body] = version
    known.count = known.count + 1

    return version
end


local function header_fault(one, headers, body)
    local age = tonumber(headers["Age"] or "")

    if headers["Content-Type"] ~= "application/json" then return "Content-Type" end
    if headers["Content-Length"] ~= tostring(#body) then return "Content-Length" end
    if not headers["ETag"] then return "ETag" end
    if not headers["Cache-Status"] then return "Cache-Status" end
    if headers["Cache-Control"] ~= "private, no-cache" then return "Cache-Control" end
    if not (headers["Vary"] or ""):find("X-API-Key", 1, true) then return "Vary" end
    if headers["Set-Cookie"] then return "Set-Cookie" end
    if not age or age < 0 or age > plan.age then return "Age" end
end


-- A key's own is not known here while it is changed.

local function rate_fault(one, headers)
    local limit = tonumber(headers["X-RateLimit-Limit"] or "")
    local left = tonumber(headers["X-RateLimit-Remaining"] or "")

    return not limit or not left or left < 0 or left > limit
           or limit ~= one.rate and one.kind ~= "changing"
end


-- A tag names one body for ever; a form that is compressed has its own.

local function judge_tag(one, tag, version, headers, body)
    local what = one.what .. " v" .. version .. " " .. (headers["Content-Encoding"] or "-")

    if tags[tag] and tags[tag] ~= what then
        return bad("wrong tag", "it is '" .. tags[tag] .. "' and '" .. what .. "'", one, 200,
                   headers, body)
    end

    if tagged > TAGS then
        tags, tagged = {}, 0
    end

    if not tags[tag] then
        tags[tag] = what
        tagged = tagged + 1
    end

    last_tag[one.what .. (one.packed and " gzip" or "")] = { tag = tag, version = version }
end


local function judge_body(one, headers, body, now)
    local coding = headers["Content-Encoding"]

    sum_bodies = sum_bodies + 1

    if coding and not (one.packed and coding == "gzip") then
        return bad("misshaped", "Content-Encoding " .. coding, one, 200, headers, body)
    end

    local version, class, text = version_of(one, body, coding)

    if not version then
        return bad(class, text, one, 200, headers, body)
    end

    note("body:" .. one.workspace .. ":" .. version, started, now)

    if broken then
        return
    end

    local fault = header_fault(one, headers, body)

    if fault then
        return bad("misshaped", fault .. " " .. (headers[fault] or "-"), one, 200, headers,
                   body)
    end

    judge_tag(one, headers["ETag"], version, headers, body)
end


local function judge_unchanged(one, headers, body, now)
    sum_unchanged = sum_unchanged + 1

    if not one.sent or headers["ETag"] ~= one.sent.tag then
        return bad("wrong tag", "304 for another tag", one, 304, headers, body)
    end

    note("body:" .. one.workspace .. ":" .. one.sent.version, started, now)
end


local function judge_refused(one, status, headers, body, now)
    if body ~= plan.errors[503] or not headers["Retry-After"] then
        return bad("misshaped", "a 503", one, status, headers, body)
    end

    note("refused:" .. (one.kind == "steady" and one.name or "-"), started, now)
end


local function judge_limited(one, status, headers, body, now)
    local wait = headers["Retry-After"] or "-"

    if one.kind ~= "limited" then
        return bad("unexpected status", "429", one, status, headers, body)
    end

    if body ~= plan.errors[429]:gsub("@S@", wait) or not wait:find("^[1-9]%d?$")
       or tonumber(wait) > 60 or headers["X-RateLimit-Remaining"] ~= "0"
    then
        return bad("misshaped", "a 429", one, status, headers, body)
    end

    note("limited:" .. one.name .. ":" .. wait, started, now)
end


local function judge_refusal(one, status, headers, body, now)
    sum_refusals = sum_refusals + 1

    if status == 503 and one.behind then
        return judge_refused(one, status, headers, body, now)
    end

    if status ~= one.status then
        return bad(status == 401 and "false 401" or "unexpected status",
                   status .. ", not " .. one.status, one, status, headers, body)
    end

    if body ~= one.body or headers["Content-Type"] ~= "application/json" then
        return bad("misshaped", "a " .. status, one, status, headers, body)
    end
end


local function judge_unknown(one, status, headers, body, now)
    if status == 503 then
        return judge_refused(one, status, headers, body, now)
    end

    if status ~= 401 then
        return bad(status < 400 and "let in" or "unexpected status",
                   status .. " for an unknown key", one, status, headers, body)
    end

    if body ~= plan.errors[401] or headers["X-RateLimit-Limit"] and not broken then
        return bad("misshaped", "a 401", one, status, headers, body)
    end
end


-- One whose key is known, now or at times.

local function judge(one, status, headers, body, now)
    if status == 401 or status == 403 then
        if status == 403 or one.kind ~= "changing" then
            return bad("false 401", status .. " for the good key " .. one.name, one, status,
                       headers, body)
        end
        if body ~= plan.errors[401] then
            return bad("misshaped", "a 401", one, status, headers, body)
        end
        return note("denied:" .. one.name, started, now)
    end

    if status == 503 and not headers["X-RateLimit-Limit"] then
        return judge_refused(one, status, headers, body, now)
    end

    if not broken and rate_fault(one, headers) then
        return bad("rate headers", "X-RateLimit-*", one, status, headers, body)
    end

    if status == 429 then
        return judge_limited(one, status, headers, body, now)
    end

    if one.kind == "changing" then
        note("in:" .. one.name, started, now)
    elseif one.kind == "limited" then
        sum_admitted = sum_admitted + 1
        note("admitted:" .. one.name .. ":" .. sum_admitted, started, now)
    end

    if status == 200 then
        return judge_body(one, headers, body, now)
    end

    if status == 304 then
        return judge_unchanged(one, headers, body, now)
    end

    if not plan.errors[status] then
        return bad("unexpected status", "" .. status, one, status, headers, body)
    end

    if body ~= plan.errors[status] or headers["Content-Type"] ~= "application/json" then
        return bad("misshaped", "a " .. status, one, status, headers, body)
    end

    note("failed:" .. status, started, now)
end


-- What wrk calls.

function setup(thread)
    threads[#threads + 1] = thread
    thread:set("number", #threads)
end


function init(args)
    plan = dofile(args[1])
    unsent = number == 1 and 1 or 0
    math.randomseed(plan.seed * 1000 + number)

    deck = {}

    for i = 1, DECK do
        deck[i] = drawn()
    end

    told = clock()
end


function request()
    if unsent > 0 then
        unsent = unsent - 1
        return deck[1].text
    end

    local now = clock()

    if asked then
        sum_lost = sum_lost + 1
        note(fresh and "lost:fresh" or "lost:used", started, now)
        fresh, broken = true, true
    end

    at = at % #deck + 1
    asked, started = deck[at], now
    sum_sent = sum_sent + 1

    local tag = asked.conditional and last_tag[asked.what .. (asked.packed and " gzip" or "")]

    asked.sent = tag

    if tag then
        return text_of("GET", asked.query.path,
                       asked.head .. "If-None-Match: " .. tag.tag .. "\r\n")
    end

    return asked.text
end


-- wrk does not forget what came of a response that was cut short: its bytes
-- are in front of the next one's, its headers among them.

function response(status, headers, body)
    local now, one = clock(), asked

    if not one then
        started = now
        return bad("misshaped", "an answer that nobody asked for", { text = "" }, status,
                   headers, body)
    end

    if broken then
        body = status == 304 and "" or body:sub(-(tonumber(headers["Content-Length"]) or 0))
    end

    sum_answers = sum_answers + 1
    note("status:" .. status, started, now)

    if now - started > HUNG * plan.factor then
        bad("hung", string.format("answered after %.1f s", now - started), one, status,
            headers, body)
    end

    if one.kind == "refusal" then
        judge_refusal(one, status, headers, body, now)
    elseif one.kind == "unknown" then
        judge_unknown(one, status, headers, body, now)
    else
        judge(one, status, headers, body, now)
    end

    asked, broken = nil, false
    fresh = headers["Connection"] == "close"

    if now - told > TELL or now > plan.ends then
        tell(now)
    end
end


local function sum_of(name)
    local sum = 0

    for _, thread in ipairs(threads) do
        sum = sum + thread:get(name)
    end

    return sum
end


function done(summary)
    local parts, bad, errors = {}, {}, {}

    for i, name in ipairs(SUMS) do
        parts[i] = string.format('"%s":%d', name, sum_of("sum_" .. name))
    end

    for i, name in ipairs(CLASSES) do
        bad[i] = string.format('"%s":%d', name, sum_of("bad_" .. name))
    end

    for name, count in pairs(summary.errors) do
        errors[#errors + 1] = string.format('"%s":%d', name, count)
    end

    parts[#parts + 1] = '"bad":{' .. table.concat(bad, ",") .. "}"
    parts[#parts + 1] = '"errors":{' .. table.concat(errors, ",") .. "}"
    io.stdout:write("# {", table.concat(parts, ","), "}\n")
end
