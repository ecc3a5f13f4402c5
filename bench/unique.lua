-- For wrk: no two requests ask the same.  Its argument is a number that no
-- other run of the bench has.

local number = 0
local head, tail

function init(args)
    local lines = {}

    for name, value in pairs(wrk.headers) do
        lines[#lines + 1] = name .. ": " .. value
    end

    head = "GET " .. wrk.path .. "&n=" .. args[1] .. "-"
    tail = " HTTP/1.1\r\n" .. table.concat(lines, "\r\n") .. "\r\n\r\n"
end

function request()
    number = number + 1
    return head .. number .. tail
end
