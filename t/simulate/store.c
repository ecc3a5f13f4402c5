
/*
 * Owns the Lua in which the script runs, with a redis.call that knows TIME,
 * GET and SET PX, and what these commands change.  Values go between Lua and
 * the replies as Redis converts them.
 */


#include <lua.h>
#include <lauxlib.h>
#include <lualib.h>

#include "store.h"


#define SIMULATE_STORE_ELTS  8


struct simulate_store_s {
    lua_State            *lua;
    int64_t               us;
    simulate_value_t      value;

    simulate_value_t      parsed;            /* what window was read from */
    simulate_window_t     window;

    ngx_convotic_resp_t   reply;
    ngx_convotic_resp_t   elts[SIMULATE_STORE_ELTS];
    ngx_convotic_resp_t  *list[SIMULATE_STORE_ELTS];
    u_char                text[SIMULATE_STORE_ELTS][SIMULATE_VALUE_LEN];
};


static void simulate_store_parse(simulate_store_t *store);
static int simulate_store_call(lua_State *lua);


simulate_store_t *
simulate_store_create(ngx_str_t *script)
{
    lua_State         *lua;
    simulate_store_t  *store;

    store = calloc(1, sizeof(simulate_store_t));
    lua = luaL_newstate();

    if (store == NULL || lua == NULL) {
        abort();
    }

    store->lua = lua;

    luaL_openlibs(lua);

    lua_newtable(lua);
    lua_pushlightuserdata(lua, store);
    lua_pushcclosure(lua, simulate_store_call, 1);
    lua_pushvalue(lua, -1);
    lua_setfield(lua, -3, "call");
    lua_setfield(lua, -2, "pcall");
    lua_setglobal(lua, "redis");

    if (luaL_loadbuffer(lua, (char *) script->data, script->len, "leases")) {
        fprintf(stderr, "%s\n", lua_tostring(lua, -1));
        abort();
    }

    lua_setfield(lua, LUA_REGISTRYINDEX, "leases");

    return store;
}


void
simulate_store_destroy(simulate_store_t *store)
{
    lua_close(store->lua);
    free(store);
}


simulate_value_t *
simulate_store_value(simulate_store_t *store)
{
    return &store->value;
}


void
simulate_store_window(simulate_store_t *store, int64_t us,
    simulate_window_t *window)
{
    if (store->value.len == 0 || store->value.expires <= us / 1000) {
        ngx_memzero(window, sizeof(simulate_window_t));
        return;
    }

    if (store->parsed.len != store->value.len
        || ngx_memcmp(store->parsed.data, store->value.data,
                      store->value.len)
           != 0)
    {
        simulate_store_parse(store);
    }

    *window = store->window;

    if (window->end <= us / 1000) {
        window->window = 0;
    }
}


static void
simulate_store_parse(simulate_store_t *store)
{
    char                was[32];
    simulate_window_t  *window;

    store->parsed = store->value;
    store->parsed.data[store->parsed.len] = '\0';

    window = &store->window;

    if (sscanf((char *) store->parsed.data, "%lu %ld %lu %31s %lu",
               &window->window, &window->end, &window->used, was,
               &window->carried)
        == 5)
    {
        window->was = strtoull(was, NULL, 10);

    } else {
        ngx_memzero(window, sizeof(simulate_window_t));
    }
}


ngx_convotic_resp_t *
simulate_store_eval(simulate_store_t *store, int64_t us, ngx_uint_t argc,
    ngx_str_t *argv)
{
    size_t                len;
    lua_State            *lua;
    ngx_uint_t            i;
    const char           *text;
    ngx_convotic_resp_t  *elt;

    lua = store->lua;
    store->us = us;

    lua_newtable(lua);
    lua_pushliteral(lua, "key");
    lua_rawseti(lua, -2, 1);
    lua_setglobal(lua, "KEYS");

    lua_newtable(lua);

    for (i = 0; i < argc; i++) {
        lua_pushlstring(lua, (char *) argv[i].data, argv[i].len);
        lua_rawseti(lua, -2, i + 1);
    }

    lua_setglobal(lua, "ARGV");

    lua_getfield(lua, LUA_REGISTRYINDEX, "leases");

    if (lua_pcall(lua, 0, 1, 0) != 0 || !lua_istable(lua, -1)) {
        fprintf(stderr, "%s\n", lua_tostring(lua, -1));
        lua_settop(lua, 0);
        return NULL;
    }

    store->reply.type = NGX_CONVOTIC_RESP_ARRAY;
    store->reply.nelts = lua_objlen(lua, -1);
    store->reply.elts = store->list;

    for (i = 0; i < store->reply.nelts && i < SIMULATE_STORE_ELTS; i++) {
        elt = &store->elts[i];
        store->list[i] = elt;

        lua_rawgeti(lua, -1, i + 1);

        if (lua_type(lua, -1) == LUA_TNUMBER) {
            elt->type = NGX_CONVOTIC_RESP_INTEGER;
            elt->integer = (int64_t) lua_tonumber(lua, -1);

        } else {
            text = lua_tolstring(lua, -1, &len);
            len = ngx_min(len, SIMULATE_VALUE_LEN);

            elt->type = NGX_CONVOTIC_RESP_STRING;
            elt->str.data = store->text[i];
            elt->str.len = len;
            ngx_memcpy(elt->str.data, text, len);
        }

        lua_pop(lua, 1);
    }

    lua_settop(lua, 0);

    return &store->reply;
}


/* Redis, as far as the script knows it */

static int
simulate_store_call(lua_State *lua)
{
    size_t             len;
    int64_t            ms;
    const char        *command, *text;
    simulate_store_t  *store;

    store = lua_touserdata(lua, lua_upvalueindex(1));
    command = luaL_checkstring(lua, 1);

    if (strcmp(command, "TIME") == 0) {
        lua_newtable(lua);
        lua_pushfstring(lua, "%d", (int) (store->us / 1000000));
        lua_rawseti(lua, -2, 1);
        lua_pushfstring(lua, "%d", (int) (store->us % 1000000));
        lua_rawseti(lua, -2, 2);
        return 1;
    }

    if (strcmp(command, "GET") == 0) {

        if (store->value.len == 0
            || store->value.expires <= store->us / 1000)
        {
            store->value.len = 0;
            lua_pushboolean(lua, 0);

        } else if (store->value.data[0] == 'W') {
            lua_newtable(lua);
            lua_pushliteral(lua, "WRONGTYPE");
            lua_setfield(lua, -2, "err");

        } else {
            lua_pushlstring(lua, (char *) store->value.data,
                            store->value.len);
        }

        return 1;
    }

    if (strcmp(command, "SET") != 0) {
        return luaL_error(lua, "unknown command %s", command);
    }

    text = luaL_checklstring(lua, 3, &len);
    ms = strtoll(luaL_checkstring(lua, 5), NULL, 10);

    if (strcmp(luaL_checkstring(lua, 4), "PX") != 0 || ms <= 0
        || len >= SIMULATE_VALUE_LEN)
    {
        return luaL_error(lua, "invalid expire time in 'set' command");
    }

    ngx_memcpy(store->value.data, text, len);
    store->value.len = len;
    store->value.expires = store->us / 1000 + ms;

    lua_newtable(lua);
    lua_pushliteral(lua, "OK");
    lua_setfield(lua, -2, "ok");

    return 1;
}
