
/*
 * The address of a server: what its URL names, as it was read and as nginx's
 * resolver tells it later, and a socket to it.
 */


#ifndef _NGX_CONVOTIC_PEER_H_INCLUDED_
#define _NGX_CONVOTIC_PEER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>

#include "ngx_convotic_url.h"


typedef struct ngx_convotic_peer_s  ngx_convotic_peer_t;


/*
 * NGX_OK: an address was found, which ngx_convotic_peer_open() goes to;
 * NGX_ERROR: the name could not be resolved, for which the log has the reason
 * at the level "info".
 */
typedef void (*ngx_convotic_peer_handler_pt)(void *data, ngx_int_t rc);


/*
 * From the address of the URL, with its name resolved; NULL after logging
 * why.  The object lives as long as the cycle.
 */
ngx_convotic_peer_t *ngx_convotic_peer_create(ngx_conf_t *cf,
    ngx_convotic_url_t *url);

/* for another connection to the same server; NULL: no memory */
ngx_convotic_peer_t *ngx_convotic_peer_copy(ngx_conf_t *cf,
    ngx_convotic_peer_t *peer);

/*
 * At the end of the configuration; resolver may be NULL: names stay as read.
 * timeout: ms, of one question
 */
void ngx_convotic_peer_configure(ngx_convotic_peer_t *peer,
    ngx_resolver_t *resolver, ngx_msec_t timeout);

/* address and database, as configured, for logs */
ngx_str_t *ngx_convotic_peer_name(ngx_convotic_peer_t *peer);

/* how many the configuration has, 1 at least */
ngx_uint_t ngx_convotic_peer_addresses(ngx_convotic_peer_t *peer);

/*
 * Finds the address for the next socket: one of the configuration, or, if
 * those have failed and there is a resolver, one that the name has now.  The
 * handler is called once, perhaps before the return, unless that is cancelled.
 * log is used until then, and by the socket.
 */
void ngx_convotic_peer_find(ngx_convotic_peer_t *peer, ngx_uint_t failed,
    ngx_log_t *log, ngx_convotic_peer_handler_pt handler, void *data);
void ngx_convotic_peer_cancel(ngx_convotic_peer_t *peer);

/* from now on another address is found, where there are several */
void ngx_convotic_peer_next(ngx_convotic_peer_t *peer);

/*
 * A socket to the address that was found.  NGX_OK: it is connected; NGX_AGAIN:
 * an event will tell; NGX_ERROR, with no connection left.  The connection's
 * handlers, data and pool are the caller's to set, and it is his to close.
 * quiet: a failure is logged at the level "info" only, if at all.
 */
ngx_int_t ngx_convotic_peer_open(ngx_convotic_peer_t *peer, ngx_uint_t quiet,
    ngx_connection_t **connection);

/* when the event has come; NGX_ERROR: it is not connected, which was logged */
ngx_int_t ngx_convotic_peer_test(ngx_connection_t *c);


#endif /* _NGX_CONVOTIC_PEER_H_INCLUDED_ */
