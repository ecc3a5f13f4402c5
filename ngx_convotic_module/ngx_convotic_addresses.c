
/*
 * Owns the budgets of addresses for look-ups of keys that nobody knows.  A
 * look-up that ends with a valid key costs nothing; while it is under way it
 * counts, so that a thousand at once are not a way around.
 *
 * The window is fixed: it begins with an address's first look-up.
 */


#include "ngx_convotic_conf.h"
#include "ngx_convotic_zone.h"
#include "ngx_convotic_addresses.h"


#define NGX_CONVOTIC_ADDRESSES_WINDOW   60000   /* ms */

/* beyond its budget an address has one look-up in this time */
#define NGX_CONVOTIC_ADDRESSES_RESERVE  1000    /* ms */


typedef struct {
    ngx_msec_t           since;
    ngx_msec_t           reserve;    /* was used then */
    ngx_uint_t           denied;
    ngx_uint_t           pending;
} ngx_convotic_addresses_entry_t;


static ngx_msec_int_t ngx_convotic_addresses_rest(ngx_msec_t since,
    ngx_msec_t length);


size_t
ngx_convotic_addresses_value(void)
{
    return sizeof(ngx_convotic_addresses_entry_t);
}


void
ngx_convotic_addresses_network(struct sockaddr *sockaddr, ngx_str_t *network)
{
    struct sockaddr_in   *sin;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6  *sin6;
#endif

    switch (sockaddr->sa_family) {

    case AF_INET:
        sin = (struct sockaddr_in *) sockaddr;
        network->data = (u_char *) &sin->sin_addr;
        network->len = sizeof(in_addr_t);
        break;

#if (NGX_HAVE_INET6)

    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sockaddr;
        network->data = sin6->sin6_addr.s6_addr;
        network->len = 8;

        /* a socket for both families: these networks are one */

        if (IN6_IS_ADDR_V4MAPPED(&sin6->sin6_addr)) {
            network->data += 12;
            network->len = sizeof(in_addr_t);
        }

        break;

#endif

    default: /* AF_UNIX */
        ngx_str_null(network);
    }
}


ngx_int_t
ngx_convotic_addresses_take(ngx_convotic_zone_t *zone, const u_char *name,
    ngx_uint_t budget, ngx_uint_t reserve, ngx_msec_t *rest)
{
    ngx_int_t                        rc;
    ngx_msec_t                       now;
    ngx_convotic_addresses_entry_t   entry;

    now = ngx_current_msec;
    rc = NGX_OK;

    ngx_convotic_zone_lock(zone);

    if (ngx_convotic_table_read(&zone->tables->addresses, zone->scope, name,
                                &entry)
        != NGX_OK
        || ngx_convotic_addresses_rest(entry.since,
                                       NGX_CONVOTIC_ADDRESSES_WINDOW)
           <= 0)
    {
        ngx_memzero(&entry, sizeof(ngx_convotic_addresses_entry_t));
        entry.since = now;
        entry.reserve = now;
    }

    /* as many may be under way that turn out to be valid */

    if (entry.denied >= budget || entry.denied + entry.pending >= 2 * budget) {

        *rest = (entry.denied >= budget)
                ? (ngx_msec_t) ngx_convotic_addresses_rest(entry.since,
                                              NGX_CONVOTIC_ADDRESSES_WINDOW)
                : NGX_CONVOTIC_ADDRESSES_RESERVE;

        if (!reserve
            || ngx_convotic_addresses_rest(entry.reserve,
                                           NGX_CONVOTIC_ADDRESSES_RESERVE)
               > 0)
        {
            rc = NGX_DECLINED;

        } else {
            entry.reserve = now;
        }
    }

    if (rc == NGX_OK) {
        entry.pending++;
        ngx_convotic_table_write_locked(&zone->tables->addresses,
                                        zone->scope, name, &entry);
    }

    ngx_convotic_zone_unlock(zone);

    return rc;
}


ngx_uint_t
ngx_convotic_addresses_done(ngx_convotic_zone_t *zone, const u_char *name,
    ngx_uint_t denied)
{
    ngx_convotic_addresses_entry_t  entry;

    ngx_convotic_zone_lock(zone);

    if (ngx_convotic_table_read(&zone->tables->addresses, zone->scope, name,
                                &entry)
        == NGX_OK)
    {
        entry.pending -= (entry.pending > 0);
        entry.denied += denied;

        ngx_convotic_table_write_locked(&zone->tables->addresses,
                                        zone->scope, name, &entry);

    } else {
        entry.denied = denied;
    }

    ngx_convotic_zone_unlock(zone);

    return entry.denied;
}


static ngx_msec_int_t
ngx_convotic_addresses_rest(ngx_msec_t since, ngx_msec_t length)
{
    return (ngx_msec_int_t) (since + length - ngx_current_msec);
}
