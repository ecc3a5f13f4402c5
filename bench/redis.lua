-- A client of Redis as small as can be, over nginx's cosockets: commands in one
-- pipeline over a kept connection, replies that are bulk strings.

local tcp = ngx.socket.tcp

local TIMEOUT = 1000            -- milliseconds
local KEPT_FOR = 60000          -- milliseconds
local KEPT = 128                -- connections

local _M = {}


local function bulk(sock)
    local line, err = sock:receive()

    if not line then
        return nil, err
    end

    if line:byte() ~= 36 then                           -- "$"
        return nil, line
    end

    local size = tonumber(line:sub(2))

    if size < 0 then
        return false
    end

    local value
    value, err = sock:receive(size)

    if not value or not sock:receive(2) then
        return nil, err
    end

    return value
end


-- hget_get(address, name, field, name2): what HGET and GET say; false is "there is
-- none", nil is an error.

function _M.hget_get(address, name, field, name2)
    local sock = tcp()
    sock:settimeouts(TIMEOUT, TIMEOUT, TIMEOUT)

    local ok, err = sock:connect(address)

    if not ok then
        return nil, nil, err
    end

    ok, err = sock:send({
        "*3\r\n$4\r\nHGET\r\n$", #name, "\r\n", name,
        "\r\n$", #field, "\r\n", field,
        "\r\n*2\r\n$3\r\nGET\r\n$", #name2, "\r\n", name2, "\r\n",
    })

    if not ok then
        return nil, nil, err
    end

    local first, second
    first, err = bulk(sock)

    if first ~= nil then
        second, err = bulk(sock)
    end

    if first == nil or second == nil then
        sock:close()
        return nil, nil, err
    end

    sock:setkeepalive(KEPT_FOR, KEPT)

    return first, second
end


return _M
