
/*
 * The window of a key's rate, as the gateways' script keeps it in Redis.
 */


#ifndef _CTL_WINDOW_H_INCLUDED_
#define _CTL_WINDOW_H_INCLUDED_


#include <stdbool.h>
#include <stddef.h>


#define WINDOW_MS  60000


typedef struct {
    long long  end;                     /* unix time, milliseconds */
    long long  leased;                  /* requests, by all nodes */
} window_t;


/* what the script makes of a value; false: it is none to it */
bool window_parse(const char *value, size_t len, window_t *w);


#endif /* _CTL_WINDOW_H_INCLUDED_ */
