
/*
 * The command line and the environment.
 */


#ifndef _CTL_OPTIONS_H_INCLUDED_
#define _CTL_OPTIONS_H_INCLUDED_


#include "ctl.h"
#include "rc.h"


/*
 * Takes the options, wherever they stand, into ctl->value; optind is then the
 * first of the words.  Anything but RC_OK is said.
 */
rc_t options_parse(ctl_t *ctl, int argc, char **argv);

/*
 * Judges what was given to ctl->command, and fills the rest of ctl.  Anything
 * but RC_OK is said; both servers are to be freed all the same.
 */
rc_t options_check(ctl_t *ctl);


#endif /* _CTL_OPTIONS_H_INCLUDED_ */
