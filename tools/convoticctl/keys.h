
/*
 * The commands on API keys.
 */


#ifndef _CTL_KEYS_H_INCLUDED_
#define _CTL_KEYS_H_INCLUDED_


#include "ctl.h"
#include "rc.h"


/* each is the command "key ..." of its name, and says what goes wrong */

rc_t keys_create_handler(const ctl_t *ctl);
rc_t keys_list_handler(const ctl_t *ctl);
rc_t keys_show_handler(const ctl_t *ctl);

/* RC_FAILED: the key is not genuine */
rc_t keys_check_handler(const ctl_t *ctl);

rc_t keys_disable_handler(const ctl_t *ctl);
rc_t keys_enable_handler(const ctl_t *ctl);
rc_t keys_revoke_handler(const ctl_t *ctl);
rc_t keys_rotate_handler(const ctl_t *ctl);


#endif /* _CTL_KEYS_H_INCLUDED_ */
