"""What a picture is drawn over and steered by: pictures, masks, second passes, ControlNets, image prompts."""
