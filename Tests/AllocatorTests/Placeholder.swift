import Ext4Format
