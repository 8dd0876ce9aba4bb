# Makes a .proto fit for protobuf-c; what is on the wire stays the same.
#   strings become bytes, which know their length and may hold anything until they are checked
#   `optional` becomes a oneof of one field, since protobuf-c 1.4 does not know proto3's
#   a Struct becomes its bytes: it is refused unread, and its nesting has no bound
#   services go: calls are found by path
/^import "google\/protobuf\/struct.proto";/d
/^service /,/^}/d
s/google\.protobuf\.Struct ([a-z_]+) = ([0-9]+);/oneof has_\1 { bytes \1 = \2; }/
s/optional ([A-Za-z0-9_.]+) ([a-z_]+) = ([0-9]+);/oneof has_\2 { \1 \2 = \3; }/
s/^( *|.*[ {<])string /\1bytes /
