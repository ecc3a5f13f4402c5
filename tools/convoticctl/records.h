
/*
 * The records of a key server: found, listed, written.
 */


#ifndef _CTL_RECORDS_H_INCLUDED_
#define _CTL_RECORDS_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>

#include "conn.h"
#include "names.h"
#include "rc.h"
#include "record.h"
#include "text.h"


typedef struct {
    record_t        *elts;
    size_t           nelts;
    size_t           nalloc;
    names_t          empty;             /* absent, or without our fields */
    size_t           prefix_len;        /* of the prefix and "key:" */
    const char      *value;             /* NULL: all records */
    record_field_t   field;             /* the field that must equal it */
} records_t;


/*
 * All records, those of absurd names or types too, or those whose field
 * equals value.  false: c->error says why, and there is nothing to free.
 */
bool records_scan(conn_t *c, const char *prefix, record_field_t field,
    const char *value, records_t *records);

void records_free(records_t *records);

/*
 * The record of an operand: "-" (a raw key on standard input), a hash, or an
 * id.  r is to be freed whatever comes; anything but RC_OK is said.
 */
rc_t records_find(conn_t *c, const char *prefix, const char *operand,
    record_t *r);

/* writes r where there is none; anything but RC_OK is said */
rc_t records_create(conn_t *c, const record_t *r);

/* writes "active", "disabled" or "revoked", to r too; all else is said */
rc_t records_status(conn_t *c, record_t *r, const char *status);

/*
 * Writes a field of an active record whose expires is as r has it.  "ok",
 * "absent" or "changed", which the caller frees; NULL: c->error says why.
 */
char *records_retire(conn_t *c, const record_t *r, record_field_t field,
    const char *value);


#endif /* _CTL_RECORDS_H_INCLUDED_ */
