internal import Ext4Format
