/* record_format.h - the constants of a record's file, between record.c and record_read.c. */
#ifndef KVFI_SESSION_RECORD_FORMAT_H
#define KVFI_SESSION_RECORD_FORMAT_H

#define KVFI_RECORD_MAGIC         "KVFREC1\n"
#define KVFI_RECORD_MAGIC_BYTES   8u
#define KVFI_RECORD_LIBRARY_BYTES 32u
#define KVFI_RECORD_TAG_INPUT     'I'
#define KVFI_RECORD_TAG_CALL      'C'
#define KVFI_RECORD_TAG_END       'E'

#endif
