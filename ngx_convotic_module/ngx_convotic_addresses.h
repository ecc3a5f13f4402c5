
/*
 * How many unknown keys an address has presented in this minute.
 */


#ifndef _NGX_CONVOTIC_ADDRESSES_H_INCLUDED_
#define _NGX_CONVOTIC_ADDRESSES_H_INCLUDED_


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"


size_t ngx_convotic_addresses_value(void);

/*
 * The bytes of an address that it is known by: all of IPv4, the network (/64)
 * of IPv6.  An empty one has no budget: a unix socket.
 */
void ngx_convotic_addresses_network(struct sockaddr *sockaddr,
    ngx_str_t *network);

/*
 * The right to look one more key up; name: a digest of the network; reserve:
 * whether the reserve may be used.  NGX_OK: to be ended with _done();
 * NGX_DECLINED: the budget a minute is used up, and *rest ms are to be waited.
 */
ngx_int_t ngx_convotic_addresses_take(ngx_convotic_zone_t *zone,
    const u_char *name, ngx_uint_t budget, ngx_uint_t reserve,
    ngx_msec_t *rest);

/* denied: the key was unknown; returns how many have been, in this minute */
ngx_uint_t ngx_convotic_addresses_done(ngx_convotic_zone_t *zone,
    const u_char *name, ngx_uint_t denied);


#endif /* _NGX_CONVOTIC_ADDRESSES_H_INCLUDED_ */
