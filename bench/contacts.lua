-- The endpoint as it is programmed with OpenResty's means: the key is checked,
-- then the parameters, then the body is served from memory or from Redis.  It
-- does less than the module: no rate, no generation, no ETag, and nothing is
-- ever fetched from an upstream (the bench writes the bodies to Redis).
--
-- Redis has, by the digest of the API key,
--
--     lua:key:<digest>                       hash, field "workspace"
--     lua:body:<digest>:<platform>:<limit>   the JSON
--
-- so that key and body are asked for in one pipeline.

local client = require "redis"
local lru = require "resty.lrucache"

local header = ngx.header
local print = ngx.print
local shared = ngx.shared.contacts

local KEY_VALID = 10            -- seconds
local BODY_VALID = 3600
local ENTRIES = 10000           -- of a worker's own cache

local own = assert(lru.new(ENTRIES))

local PLATFORMS = {
    instagram = true, line = true, facebook = true, whatsapp = true
}

local _M = {}


local function refuse(status, code, message)
    local body = '{"error":{"code":"' .. code .. '","message":"' .. message
                 .. '"}}'

    ngx.status = status
    header.content_type = "application/json"
    header.content_length = #body
    print(body)

    return ngx.exit(status)
end


local function parameters()
    local var = ngx.var
    local limit = var.arg_limit or "20"
    local number = tonumber(limit)

    if not number or number < 1 or number > 100 or number % 1 ~= 0 then
        return refuse(400, "INVALID_REQUEST",
                      "Parameter 'limit' must be between 1 and 100")
    end

    local platform = var.arg_platform

    if platform and not PLATFORMS[platform] then
        return refuse(400, "INVALID_REQUEST", "Parameter 'platform' must be "
                      .. "one of: instagram, line, facebook, whatsapp")
    end

    return platform or "", number
end


local function api_key()
    local key = ngx.var.http_x_api_key

    if not key then
        return refuse(401, "UNAUTHORIZED", "Missing X-API-Key header")
    end

    return key
end


local function ask_redis(key, platform, limit)
    local digest = ngx.encode_base64(ngx.sha1_bin(key), true)

    local workspace, body, err = client.hget_get(_M.redis,
        "lua:key:" .. digest, "workspace",
        "lua:body:" .. digest .. ":" .. platform .. ":" .. limit)

    if workspace == nil then
        ngx.log(ngx.ERR, "Redis: ", err)
        return refuse(503, "INTERNAL_ERROR", "Temporarily unavailable")
    end

    if not workspace then
        return refuse(401, "UNAUTHORIZED", "Invalid API key")
    end

    if not body then
        return refuse(502, "INTERNAL_ERROR", "Bad gateway")
    end

    return workspace, body
end


local function send(body)
    header.content_type = "application/json"
    header.content_length = #body
    print(body)
end


function _M.from_redis()
    local key = api_key()
    local platform, limit = parameters()
    local _, body = ask_redis(key, platform, limit)

    send(body)
end


local function find(key, platform, limit)
    local workspace = shared:get("key:" .. key)
    local body

    if workspace then
        body = shared:get(workspace .. ":" .. platform .. ":" .. limit)
    end

    if not body then
        workspace, body = ask_redis(key, platform, limit)
        shared:set("key:" .. key, workspace, KEY_VALID)
        shared:set(workspace .. ":" .. platform .. ":" .. limit, body,
                   BODY_VALID)
    end

    return workspace, body
end


function _M.from_shared_dict()
    local key = api_key()
    local platform, limit = parameters()
    local _, body = find(key, platform, limit)

    send(body)
end


-- The fastest that Lua has: a cache of the worker's own, whose strings need no
-- copy, before the other two.

function _M.from_worker()
    local key = api_key()
    local platform, limit = parameters()
    local workspace = own:get("key:" .. key)
    local body

    if workspace then
        body = own:get(workspace .. ":" .. platform .. ":" .. limit)
    end

    if not body then
        workspace, body = find(key, platform, limit)
        own:set("key:" .. key, workspace, KEY_VALID)
        own:set(workspace .. ":" .. platform .. ":" .. limit, body,
                BODY_VALID)
    end

    send(body)
end


return _M
