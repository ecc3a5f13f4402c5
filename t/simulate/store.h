
/*
 * A server of one key: the script of leases in a Lua of its own, by a clock
 * that is set.
 */


#ifndef _SIMULATE_STORE_H_INCLUDED_
#define _SIMULATE_STORE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_convotic_resp.h"


#define SIMULATE_VALUE_LEN  256


typedef struct simulate_store_s  simulate_store_t;


/* what is stored, and until when by the server's clock */

typedef struct {
    size_t   len;                    /* 0: nothing */
    u_char   data[SIMULATE_VALUE_LEN];
    int64_t  expires;                /* ms */
} simulate_value_t;


/* as the script writes it */

typedef struct {
    uint64_t  window;                /* 0: there is none */
    int64_t   end;                   /* ms, by the server's clock */
    uint64_t  used;
    uint64_t  was;                   /* 0: none, or all are to be forgotten */
    uint64_t  carried;
} simulate_window_t;


simulate_store_t *simulate_store_create(ngx_str_t *script);
void simulate_store_destroy(simulate_store_t *store);

/* the value, for those who lose it or bring an older one back */
simulate_value_t *simulate_store_value(simulate_store_t *store);

/* us: the server's clock; what is over is not seen */
void simulate_store_window(simulate_store_t *store, int64_t us,
    simulate_window_t *window);

/* the reply is valid until the next call; NULL: the script died */
ngx_convotic_resp_t *simulate_store_eval(simulate_store_t *store, int64_t us,
    ngx_uint_t argc, ngx_str_t *argv);


#endif /* _SIMULATE_STORE_H_INCLUDED_ */
