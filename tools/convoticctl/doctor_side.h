
/*
 * One of the two servers that the doctor examines, and what it finds.
 */


#ifndef _CTL_DOCTOR_SIDE_H_INCLUDED_
#define _CTL_DOCTOR_SIDE_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>

#include <jansson.h>

#include "conn.h"
#include "ctl.h"


typedef enum {
    SIDE_OK = 0,
    SIDE_WARN,
    SIDE_FAIL
} side_verdict_t;


/* of the whole run */

typedef struct {
    json_t    *checks;                  /* NULL: text, printed at once */
    unsigned   failed;
} side_findings_t;


typedef struct {
    const ctl_t      *ctl;
    side_findings_t  *findings;
    const char       *label;            /* NULL: both servers */
    bool              is_keys;
    bool              up;
    bool              master;           /* or whether it is, is not told */
    conn_t            conn;
    char             *info;             /* NULL: INFO was refused */
} side_t;


/* a line, or an element of the JSON array; check is one word */
void side_say(side_t *side, side_verdict_t verdict, const char *check,
    const char *fmt, ...) __attribute__((format(printf, 4, 5)));

/*
 * The value of a line of INFO at buf, escaped for a terminal; false: there is
 * no such line, or it is too long for buf.
 */
bool side_info(const side_t *side, const char *name, char *buf, size_t size);

/* the same for a number, or -1 */
long long side_info_number(const side_t *side, const char *name);

void side_free(side_t *side);


#endif /* _CTL_DOCTOR_SIDE_H_INCLUDED_ */
